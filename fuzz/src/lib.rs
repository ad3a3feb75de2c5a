//! What the targets share: an input that a reader can write by hand ([`script`]), a bound on the work for it ([`work`]), and
//! a filter in memory that is driven by it ([`world`]).

pub mod script;
pub mod work;
pub mod world;
