//! What derived code is made of. Nothing here depends on a type of a field more than it must, so that a field costs some
//! thirty bytes of the module.

use std::fmt;

use super::error::{FIELDS, FieldError};
use super::read::FromJson;
use super::tree::{Json, Text};

/// What a type's objects look like.
#[derive(Debug)]
pub struct Shape {
    /// The names of its fields.
    pub names: &'static [&'static str],
    /// Whether no other names may stand there.
    pub strict: bool,
}

/// The members of an object, found by the places of their names in its [`Shape`], and what was wrong so far.
#[derive(Debug)]
pub struct Fields<'a, 'j> {
    members: &'a [(Text<'j>, Json<'j>)],
    shape: &'static Shape,
    /// For each field where it stands, counted from 1; 0: nowhere.
    places: &'a mut [u32],
    /// The misfit that stands first, and where that is; [`MISSING`] for a field that is missing.
    misfit: Option<(u32, FieldError)>,
}

/// A variant that is named: by its name alone, or by an object with its name and what it holds.
#[derive(Debug)]
pub struct Variant<'a, 'j> {
    /// Its place among the names.
    pub index: usize,
    name: &'static str,
    content: Option<&'a Json<'j>>,
}

/// What is missing is said where all that is there fits.
const MISSING: u32 = u32::MAX;

/// Reads a `Raw`, of which a `T` can be made or not.
///
/// # Errors
/// It is no `Raw`, or one of which no `T` can be made.
pub fn converted<Raw: FromJson + TryInto<T, Error: fmt::Display>, T>(json: &Json<'_>) -> Result<T, FieldError> {
    Raw::from_json(json)?.try_into().map_err(|problem| FieldError::shown(&problem))
}

/// The place of the one name that is given, of an enum that has nothing but names.
///
/// # Errors
/// It is none of them.
#[inline(never)]
pub fn chosen(json: &Json<'_>, names: &'static [&'static str]) -> Result<usize, FieldError> {
    let variant = Variant::of(json, names)?;
    variant.alone().map(|()| variant.index)
}

fn place_of(names: &[&str], name: &str) -> Option<usize> {
    names.iter().position(|known| *known == name)
}

// === impl Shape ===

impl Shape {
    /// Finds the fields of a value. What is no object is a misfit too, which stands before all others.
    #[inline(never)]
    pub fn fields<'a, 'j>(&'static self, json: &'a Json<'j>, places: &'a mut [u32]) -> Fields<'a, 'j> {
        let mut fields = Fields { members: &[], shape: self, places, misfit: None };
        let Json::Object(members) = json else {
            fields.note(0, FieldError::other_kind(json, FIELDS));
            return fields;
        };
        fields.members = members;
        // Records are written in the order of their fields.
        let mut next = 0_usize;
        for (place, (name, _)) in (1_u32..).zip(members) {
            let name = &*name.0;
            let index = if self.names.get(next) == Some(&name) { Some(next) } else { place_of(self.names, name) };
            match index.and_then(|index| fields.places.get_mut(index)) {
                Some(known) if *known == 0 => {
                    *known = place;
                    next = index.unwrap_or_default().saturating_add(1);
                }
                Some(_) => fields.note(place, FieldError::new(format!("duplicate field `{name}`"))),
                None if self.strict => {
                    fields.note(place, FieldError::unknown_field(name, self.names).in_member(name));
                }
                None => {}
            }
        }
        fields
    }
}

// === impl Fields ===

impl<'a, 'j> Fields<'a, 'j> {
    /// A field that may not be left out, unless its type says what it is then; none is a misfit.
    pub fn required<T: FromJson>(&mut self, index: usize) -> Option<T> {
        match self.member(index) {
            Some(json) => self.read(index, T::from_json(json)),
            None => T::missing().or_else(|| self.miss(index)),
        }
    }

    /// As [`Self::required`], read by a function.
    pub fn required_by<T>(
        &mut self,
        index: usize,
        read: impl FnOnce(&Json<'_>) -> Result<T, FieldError>,
    ) -> Option<T> {
        match self.member(index) {
            Some(json) => self.read(index, read(json)),
            None => self.miss(index),
        }
    }

    /// Puts a field in place of what it is when it is left out.
    pub fn set<T: FromJson>(&mut self, index: usize, field: &mut T) {
        self.set_by(index, field, T::from_json);
    }

    /// As [`Self::set`], read by a function.
    pub fn set_by<T>(
        &mut self,
        index: usize,
        field: &mut T,
        read: impl FnOnce(&Json<'_>) -> Result<T, FieldError>,
    ) {
        let Some(json) = self.member(index) else { return };
        if let Some(value) = self.read(index, read(json)) {
            *field = value;
        }
    }

    /// A part whose fields stand beside the others.
    pub fn beside<T: FromJson>(&mut self, json: &Json<'_>) -> Option<T> {
        T::from_json(json).map_err(|misfit| self.note(0, misfit)).ok()
    }

    /// Whether everything fits.
    pub const fn fit(&self) -> bool {
        self.misfit.is_none()
    }

    /// What does not fit.
    #[inline(never)]
    pub fn misfit(self) -> FieldError {
        self.misfit.map_or_else(|| FieldError::new("it does not fit"), |(_, misfit)| misfit)
    }

    #[inline(never)]
    fn member(&self, index: usize) -> Option<&'a Json<'j>> {
        let place = usize::try_from(*self.places.get(index)?).ok()?.checked_sub(1)?;
        self.members.get(place).map(|(_, value)| value)
    }

    fn read<T>(&mut self, index: usize, read: Result<T, FieldError>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(misfit) => {
                self.note_in(index, misfit);
                None
            }
        }
    }

    #[inline(never)]
    fn note_in(&mut self, index: usize, misfit: FieldError) {
        let name = self.shape.names.get(index).copied().unwrap_or_default();
        let place = self.places.get(index).copied().unwrap_or_default();
        self.note(place, misfit.in_member(name));
    }

    #[inline(never)]
    fn note_missing(&mut self, index: usize) {
        let name = self.shape.names.get(index).copied().unwrap_or_default();
        self.note(MISSING, FieldError::new(format!("missing field `{name}`")));
    }

    fn miss<T>(&mut self, index: usize) -> Option<T> {
        self.note_missing(index);
        None
    }

    fn note(&mut self, place: u32, misfit: FieldError) {
        if self.misfit.as_ref().is_none_or(|(earlier, _)| place < *earlier) {
            self.misfit = Some((place, misfit));
        }
    }
}

// === impl Variant ===

impl<'a, 'j> Variant<'a, 'j> {
    /// Finds out which of `names` is given.
    ///
    /// # Errors
    /// None of them, or more than one.
    #[inline(never)]
    pub fn of(json: &'a Json<'j>, names: &'static [&'static str]) -> Result<Self, FieldError> {
        let (name, content) = match json {
            Json::Text(name) => (&**name, None),
            Json::Object(members) => match members.as_slice() {
                [(name, content)] => (&*name.0, Some(content)),
                _ => return Err(FieldError::unfit(json, "exactly one of the ways to write it")),
            },
            _ => return Err(FieldError::other_kind(json, "one of its names")),
        };
        let index = place_of(names, name).ok_or_else(|| FieldError::unknown_name(name, names))?;
        Ok(Self { index, name: names.get(index).copied().unwrap_or_default(), content })
    }

    /// Checks that it stands alone.
    ///
    /// # Errors
    /// Something goes with it.
    #[inline(never)]
    pub fn alone(&self) -> Result<(), FieldError> {
        match self.content {
            None => Ok(()),
            Some(_) => Err(FieldError::kinds("an object", "a name alone belongs").in_member(self.name)),
        }
    }

    /// What it holds, of one type.
    ///
    /// # Errors
    /// Nothing goes with it, or something else.
    pub fn holding<T: FromJson>(&self) -> Result<T, FieldError> {
        T::from_json(self.content("an object with one member belongs")?).map_err(|misfit| self.within(misfit))
    }

    /// What it holds, in fields.
    ///
    /// # Errors
    /// Nothing goes with it.
    pub fn fields(&self) -> Result<&'a Json<'j>, FieldError> {
        self.content("an object with its fields belongs")
    }

    /// A misfit in what it holds.
    #[inline(never)]
    pub fn within(&self, misfit: FieldError) -> FieldError {
        misfit.in_member(self.name)
    }

    #[inline(never)]
    fn content(&self, expected: &str) -> Result<&'a Json<'j>, FieldError> {
        self.content.ok_or_else(|| FieldError::kinds("a name alone", expected))
    }
}
