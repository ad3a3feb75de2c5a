//! Whether the routing headers that a request arrives with are the listener's word or a client's.
//!
//! Early header mutation writes the cluster header of every request before any filter runs. So a request without it shows
//! that the listener lets through what clients write there: it is *open*. Nothing shows the opposite for certain, but one
//! ordinary request shows an open listener. Reading a header that is there costs a host call of the dearer kind, so the
//! first requests are looked at, then some; while it is missing, when that is cheap, each.

use std::cell::Cell;

use crate::deployment::DeploymentIndex;

/// What one worker has seen of the requests of one listener.
#[derive(Debug)]
pub struct Incoming {
    /// Of each deployment, and then of the requests that none takes.
    looks: Vec<Look>,
    /// Whether a request has come without its header. It stays so: clients can write the header of as many requests as they
    /// like, and none of that shows that the listener writes it now.
    is_open: Cell<bool>,
}

/// Whose cluster header is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A deployment's.
    Deployment(DeploymentIndex),
    /// Those of all deployments, of a request that none of them takes.
    Nobody,
}

/// What a look has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The header is missing.
    Missing,
    /// It has been there in so many looks in a row that it seems to be seeded.
    Seeded,
}

/// Takes the first few of many, and then some.
#[derive(Debug, Default)]
pub struct Cadence(Cell<u64>);

#[derive(Debug, Default)]
struct Look {
    cadence: Cadence,
    there_in_a_row: Cell<u64>,
    /// The last finding was that the header is missing.
    is_missing: Cell<bool>,
}

/// So many looks make a finding that the header is seeded; so many requests are looked at first.
const FIRST: u64 = 16;
/// Of the later ones each of so many.
const EACH: u64 = 256;

// === impl Incoming ===

impl Incoming {
    /// Nothing was seen yet.
    pub fn new(deployments: usize) -> Self {
        Self { looks: (0..=deployments).map(|_| Look::default()).collect(), is_open: Cell::new(false) }
    }

    /// Whether the header of the request that has come is to be looked at. Asked once for each request.
    pub fn wants_look(&self, whose: Whose) -> bool {
        let Some(look) = self.look(whose) else { return false };
        look.cadence.takes_next() || look.is_missing.get()
    }

    /// Takes note of what a look has shown. What is found is reported once. A header that is missing again and again is
    /// reported at each look, so that what was forgotten elsewhere comes back.
    pub fn saw(&self, whose: Whose, is_there: bool) -> Option<Finding> {
        let look = self.look(whose)?;
        if !is_there {
            look.there_in_a_row.set(0);
            self.is_open.set(true);
            let is_news = !look.is_missing.replace(true);
            return (is_news || look.cadence.has_come_round()).then_some(Finding::Missing);
        }
        let in_a_row = look.there_in_a_row.get().saturating_add(1);
        look.there_in_a_row.set(in_a_row);
        if in_a_row != FIRST {
            return None;
        }
        look.is_missing.set(false);
        Some(Finding::Seeded)
    }

    /// Whether clients may have written the routing headers of a request.
    pub fn are_open(&self) -> bool {
        self.is_open.get()
    }

    fn look(&self, whose: Whose) -> Option<&Look> {
        match whose {
            Whose::Deployment(index) => self.looks.get(index),
            Whose::Nobody => self.looks.last(),
        }
    }
}

// === impl Cadence ===

impl Cadence {
    /// Whether the next one is taken.
    pub fn takes_next(&self) -> bool {
        let number = self.0.get();
        self.0.set(number.wrapping_add(1));
        number < FIRST || number.is_multiple_of(EACH)
    }

    /// Whether the last one was taken after the first few.
    fn has_come_round(&self) -> bool {
        self.0.get() > FIRST && self.0.get().wrapping_sub(1).is_multiple_of(EACH)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const IRIS: Whose = Whose::Deployment(0);

    #[test]
    fn one_request_without_the_header_shows_that_the_listener_is_open() {
        let incoming = Incoming::new(1);
        assert!(incoming.wants_look(IRIS) && !incoming.are_open());
        assert_eq!(incoming.saw(IRIS, true), None);
        assert_eq!(incoming.saw(IRIS, false), Some(Finding::Missing));
        assert!(incoming.are_open());
        assert_eq!(incoming.saw(IRIS, false), None);
        assert_eq!(incoming.saw(Whose::Nobody, false), Some(Finding::Missing));
    }

    #[test]
    fn an_open_listener_stays_open_whatever_clients_write() {
        let incoming = Incoming::new(1);
        incoming.saw(IRIS, false);
        let found: Vec<Finding> = (0..100).filter_map(|_| incoming.saw(IRIS, true)).collect();
        assert_eq!((found, incoming.are_open()), (vec![Finding::Seeded], true));
        assert_eq!(incoming.saw(IRIS, false), Some(Finding::Missing));
    }

    #[test]
    fn many_in_a_row_have_to_be_there_until_the_header_seems_to_be_seeded() {
        let incoming = Incoming::new(1);
        incoming.saw(IRIS, false);
        for _ in 1..FIRST {
            assert_eq!(incoming.saw(IRIS, true), None);
        }
        assert_eq!(incoming.saw(IRIS, false), None);
        let found: Vec<Finding> = (0..FIRST).filter_map(|_| incoming.saw(IRIS, true)).collect();
        assert_eq!(found, [Finding::Seeded]);
    }

    #[test]
    fn of_a_seeded_listener_the_first_requests_are_looked_at_and_then_some_and_of_an_open_one_all() {
        let looks = |incoming: &Incoming| (0..1_000).filter(|_| incoming.wants_look(IRIS)).count();
        let incoming = Incoming::new(1);
        assert_eq!(looks(&incoming), 16 + 3);
        incoming.saw(IRIS, false);
        assert_eq!(looks(&incoming), 1_000);
    }

    #[test]
    fn each_deployment_has_a_look_of_its_own() {
        let incoming = Incoming::new(2);
        for whose in [IRIS, Whose::Deployment(1)] {
            assert_eq!(incoming.saw(whose, false), Some(Finding::Missing));
        }
        for _ in 0..FIRST {
            incoming.saw(IRIS, true);
        }
        assert_eq!(incoming.saw(Whose::Deployment(1), false), None);
        assert_eq!(incoming.saw(Whose::Deployment(7), false), None);
    }
}
