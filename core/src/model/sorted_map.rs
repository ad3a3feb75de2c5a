//! A map that is one list.

use std::borrow::Borrow;

use serde::{Serialize, Serializer};

use crate::json::{FieldError, FromJson, Json};

/// Values by name, in the order of the names. For what is small, or gets its entries in about their order: a new one moves
/// those behind it. Each kind of `BTreeMap` is some 5 KB of the module, each of these a tenth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortedMap<N, T>(Vec<(N, T)>);

// === impl SortedMap ===

impl<N, T> SortedMap<N, T> {
    /// How many entries there are.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = (&N, &T)> + Clone {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &T> + Clone {
        self.0.iter().map(|(_, value)| value)
    }

    /// Removes the entries that are not to be kept.
    pub fn retain(&mut self, keep: impl Fn(&N, &T) -> bool) {
        self.0.retain(|(name, value)| keep(name, value));
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl<N: Ord, T> SortedMap<N, T> {
    /// Whether there is an entry with this name.
    pub fn contains_key<Q: Ord + ?Sized>(&self, name: &Q) -> bool
    where
        N: Borrow<Q>,
    {
        self.place(name).is_ok()
    }

    /// The value with this name.
    pub fn get<Q: Ord + ?Sized>(&self, name: &Q) -> Option<&T>
    where
        N: Borrow<Q>,
    {
        self.0.get(self.place(name).ok()?).map(|(_, value)| value)
    }

    /// The same, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, name: &Q) -> Option<&mut T>
    where
        N: Borrow<Q>,
    {
        let place = self.place(name).ok()?;
        self.0.get_mut(place).map(|(_, value)| value)
    }

    /// Puts an entry there, and takes the value that was there before.
    pub fn insert(&mut self, name: N, value: T) -> Option<T> {
        match self.place(&name) {
            Ok(place) => self.0.get_mut(place).map(|(_, known)| std::mem::replace(known, value)),
            Err(place) => {
                self.0.insert(place, (name, value));
                None
            }
        }
    }

    /// Takes an entry away.
    pub fn remove<Q: Ord + ?Sized>(&mut self, name: &Q) -> Option<T>
    where
        N: Borrow<Q>,
    {
        let place = self.place(name).ok()?;
        Some(self.0.remove(place).1)
    }

    /// Where the entry is, or would be.
    fn place<Q: Ord + ?Sized>(&self, name: &Q) -> Result<usize, usize>
    where
        N: Borrow<Q>,
    {
        self.0.binary_search_by(|(known, _)| known.borrow().cmp(name))
    }
}

impl<N, T> Default for SortedMap<N, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<N, T> IntoIterator for SortedMap<N, T> {
    type Item = (N, T);
    type IntoIter = std::vec::IntoIter<(N, T)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<N: Serialize, T: Serialize> Serialize for SortedMap<N, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<N: FromJson + Ord, T: FromJson> FromJson for SortedMap<N, T> {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        let mut map = Self::default();
        json.each_member(|name, value| {
            map.insert(N::from_name(name)?, T::from_json(value)?);
            Ok(())
        })?;
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;

    #[test]
    fn it_does_what_a_map_of_std_does() {
        let (mut ours, mut stds) = (SortedMap::default(), BTreeMap::new());
        let mut random = 7_u64;
        for round in 0..3_000_u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let name = (random >> 58) as u8;
            match (random >> 32) % 4 {
                0 | 1 => assert_eq!(ours.insert(name, round), stds.insert(name, round)),
                2 => assert_eq!(ours.remove(&name), stds.remove(&name)),
                _ => {
                    ours.get_mut(&name).into_iter().for_each(|value| *value += 1);
                    stds.get_mut(&name).into_iter().for_each(|value| *value += 1);
                }
            }
            assert_eq!(ours.get(&name), stds.get(&name));
            assert!(ours.iter().eq(stds.iter()));
        }
        ours.retain(|name, _| name % 2 == 0);
        stds.retain(|name, _| name % 2 == 0);
        assert_eq!((ours.len(), ours.is_empty()), (stds.len(), false));
        assert!(ours.into_iter().eq(stds));
    }

    #[test]
    fn as_json_it_is_a_map_of_std_in_any_order() {
        let map: SortedMap<u8, u64> = json::from_str(r#"{"7": 1, "200": 3, "9": 2, "7": 4}"#).expect("a map");
        assert_eq!(serde_json::to_string(&map).expect("serialises"), r#"{"7":4,"9":2,"200":3}"#);
        assert_eq!(json::from_str::<SortedMap<u8, u64>>(r#"{"300": 1}"#).expect_err("too large").path(), "300");
        assert!(json::from_str::<SortedMap<u8, u64>>("[]").is_err());
    }
}
