//! What `#[serde(...)]` says about reading.

use syn::meta::ParseNestedMeta;
use syn::{Attribute, FieldsUnnamed, LitStr, Path, Result, Type};

use crate::case::Case;

/// What it says about a type.
#[derive(Default)]
pub(crate) struct Container {
    /// No other fields may stand there.
    pub is_strict: bool,
    /// Fields that are left out are what they are in the type's default.
    pub has_default: bool,
    /// It is written as its one field.
    pub is_transparent: bool,
    /// How its names are written.
    pub case: Case,
    /// It is made of a value of this type.
    pub by_way_of: Option<Type>,
}

/// What it says about a field, or a variant.
#[derive(Default)]
pub(crate) struct OfField {
    /// Its name.
    pub rename: Option<String>,
    /// What it is when it is left out.
    pub absent: Option<Absent>,
    /// The function that reads it.
    pub with: Option<Path>,
    /// It is not written.
    pub is_skipped: bool,
    /// Its fields stand beside the others.
    pub is_flat: bool,
}

/// What a field is when it is left out.
pub(crate) enum Absent {
    /// Its type's default.
    Default,
    /// What this function makes.
    By(Path),
}

// === impl Container ===

impl Container {
    pub(crate) fn of(attributes: &[Attribute]) -> Result<Self> {
        let mut container = Self::default();
        each(attributes, |name, meta| {
            match name {
                "deny_unknown_fields" => container.is_strict = true,
                "transparent" => container.is_transparent = true,
                "default" if !meta.input.peek(syn::Token![=]) => container.has_default = true,
                "rename_all" => container.case = Case::of(&text(meta)?)?,
                "from" | "try_from" => container.by_way_of = Some(text(meta)?.parse()?),
                "into" => drop(text(meta)?),
                _ => return Err(unknown(meta)),
            }
            Ok(())
        })?;
        Ok(container)
    }
}

// === impl OfField ===

impl OfField {
    pub(crate) fn of(attributes: &[Attribute]) -> Result<Self> {
        let mut field = Self::default();
        each(attributes, |name, meta| {
            match name {
                "rename" => field.rename = Some(text(meta)?.value()),
                "default" if meta.input.peek(syn::Token![=]) => field.absent = Some(Absent::By(text(meta)?.parse()?)),
                "default" => field.absent = Some(Absent::Default),
                "deserialize_with" => field.with = Some(text(meta)?.parse()?),
                "skip" => field.is_skipped = true,
                "flatten" => field.is_flat = true,
                "skip_serializing_if" | "serialize_with" => drop(text(meta)?),
                _ => return Err(unknown(meta)),
            }
            Ok(())
        })?;
        Ok(field)
    }
}

/// Checks that it says nothing about fields without names.
pub(crate) fn none(fields: &FieldsUnnamed) -> Result<()> {
    fields.unnamed.iter().try_for_each(|field| each(&field.attrs, |_, meta| Err(unknown(meta))))
}

fn each(attributes: &[Attribute], mut take: impl FnMut(&str, &ParseNestedMeta<'_>) -> Result<()>) -> Result<()> {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        attribute.parse_nested_meta(|meta| {
            let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
            take(&name, &meta)
        })?;
    }
    Ok(())
}

fn text(meta: &ParseNestedMeta<'_>) -> Result<LitStr> {
    meta.value()?.parse()
}

fn unknown(meta: &ParseNestedMeta<'_>) -> syn::Error {
    let path = &meta.path;
    let name = quote::quote!(#path);
    meta.error(format!("FromJson does not know `{name}` here"))
}
