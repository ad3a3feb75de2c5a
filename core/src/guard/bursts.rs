//! How much of what went wrong may be one host's doing.
//!
//! The tests take it that chance decides which colour a bad outcome falls on. A host that stands still for three seconds
//! has dozens of them, and chance decided once: which host. So in five seconds the host with the most bad outcomes is
//! credited with one more than the host after it. What a version does wrong shows on all its hosts, and loses little by that;
//! what one host does is worth one outcome. Only what speaks against the watched colour is held back in this way. Less than
//! a fair game gives is fair too.
//!
//! A colour that has only one known host (there is one, or a load balancer stands in front) cannot be told from its host. There the winnings
//! are limited instead, see [`capital`](super::capital).

use serde::Serialize;

use super::capital::WINDOW;
use crate::json::FromJson;
use crate::metrics::cohorts::{Epoch, Host};

/// What the hosts of the watched colour did in the last seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, FromJson)]
pub struct Bursts {
    /// Bad outcomes, and how many of them were credited.
    recent: Vec<(Epoch, Host, u64, u64)>,
    /// The hosts that were asked, and when last.
    hosts: Vec<(Host, Epoch)>,
}

/// A host that was not asked for so long (two minutes) is none any more.
const FORGOTTEN: u64 = 480;
/// So many are remembered, and so many events.
const MOST: usize = 256;

// === impl Bursts ===

impl Bursts {
    /// Hosts were asked.
    pub fn asked(&mut self, epoch: Epoch, hosts: impl Iterator<Item = Host>) {
        for host in hosts.filter(|host| *host != Host::default()) {
            if let Some((_, last)) = self.hosts.iter_mut().find(|(known, _)| *known == host) {
                *last = epoch.max(*last);
            } else if self.hosts.len() < MOST {
                self.hosts.push((host, epoch));
            }
        }
        let is_kept = |last: Epoch, span: u64| last.number().saturating_add(span) > epoch.number();
        self.hosts.retain(|(_, last)| is_kept(*last, FORGOTTEN));
        self.recent.retain(|(at, ..)| is_kept(*at, WINDOW));
    }

    /// Whether the colour has no two hosts, as far as is known.
    pub const fn is_single(&self) -> bool {
        self.hosts.len() < 2
    }

    /// Takes note of the bad outcomes of an epoch, and gives how many of them are not credited.
    pub fn surplus(&mut self, epoch: Epoch, bad: &[(Host, u64)]) -> u64 {
        // Those of a host that is not known are limited by the capital.
        let known = || bad.iter().filter(|(host, count)| *host != Host::default() && *count > 0);
        for (host, count) in known() {
            if self.recent.len() < MOST {
                self.recent.push((epoch, *host, *count, 0));
            }
        }
        if self.is_single() {
            return 0;
        }
        let mut surplus = 0_u64;
        for (host, count) in known() {
            let others = self.hosts.iter().filter(|(other, _)| other != host);
            let allowed = others.map(|(other, _)| self.sum(*other).0).max().unwrap_or_default().saturating_add(1);
            let credit = allowed.saturating_sub(self.sum(*host).1).min(*count);
            let newest = self.recent.iter_mut().rev().find(|(at, of, ..)| (*at, *of) == (epoch, *host));
            if let Some((.., credited)) = newest {
                *credited = credited.saturating_add(credit);
            }
            surplus = surplus.saturating_add(count.saturating_sub(credit));
        }
        surplus
    }

    /// A host's bad outcomes in the window, and how many were credited.
    fn sum(&self, host: Host) -> (u64, u64) {
        let of_host = self.recent.iter().filter(|(_, of, ..)| *of == host);
        of_host.fold((0, 0), |(bad, credited), (_, _, more, of_it)| {
            (bad.saturating_add(*more), credited.saturating_add(*of_it))
        })
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::time::Timestamp;

    fn at(quarter: u64) -> Epoch {
        Epoch::of(Timestamp::from_millis(250 * quarter))
    }

    fn two() -> Bursts {
        let mut bursts = Bursts::default();
        bursts.asked(at(0), [Host(1), Host(2)].into_iter());
        bursts
    }

    #[test]
    fn a_host_that_stands_still_alone_is_credited_once_in_five_seconds() {
        let mut bursts = two();
        let mut credited = 0;
        for quarter in 0..12 {
            bursts.asked(at(quarter), [Host(1), Host(2)].into_iter());
            credited += 2 - bursts.surplus(at(quarter), &[(Host(1), 2)]);
        }
        assert_eq!(credited, 1);
        bursts.asked(at(32), [Host(1), Host(2)].into_iter());
        assert_eq!(bursts.surplus(at(32), &[(Host(1), 1)]), 0);
    }

    #[test]
    fn what_both_hosts_do_is_credited_in_full() {
        let mut bursts = two();
        let mut surplus = 0;
        for quarter in 0..40 {
            bursts.asked(at(quarter), [Host(1), Host(2)].into_iter());
            surplus += bursts.surplus(at(quarter), &[(Host(1 + (quarter % 2) as u16), 1)]);
        }
        assert_eq!(surplus, 0);
    }

    #[test]
    fn one_host_alone_and_hosts_that_are_not_known_are_no_bursts() {
        let mut bursts = Bursts::default();
        bursts.asked(at(0), [Host(1), Host(0)].into_iter());
        assert!(bursts.is_single());
        assert_eq!(bursts.surplus(at(0), &[(Host(1), 9)]), 0);
        let mut bursts = two();
        assert_eq!(bursts.surplus(at(0), &[(Host(0), 9)]), 0);
    }

    #[test]
    fn a_host_that_was_not_asked_for_two_minutes_is_none_any_more() {
        let mut bursts = two();
        bursts.asked(at(480), [Host(2)].into_iter());
        assert!(bursts.is_single());
    }
}
