//! Sources: places outside of the admin API that say which state a deployment should be in.

mod sighting;

pub use self::sighting::{Sighting, read, record, settle};
