//! Resting: after a failure, before all keys are read again.

use std::time::Duration;

use super::{Follower, Phase};
use crate::model::time::Timestamp;
use crate::store::lease::Member;

/// How long to wait after a failure: the first time, and at most. In between it doubles.
const FIRST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(1);

// === impl Follower ===

impl Follower {
    /// Waits a while before reading all keys again, the longer the more attempts have failed.
    pub(super) fn rest(&mut self, failed: bool, now: Timestamp) {
        self.attempt = self.attempt.wrapping_add(1);
        self.failures = if failed { self.failures.saturating_add(1) } else { 0 };
        let until = if failed { now.plus(rest_after(self.failures, self.member, now)) } else { now };
        self.phase = Phase::Resting { until };
    }
}

/// The pause after so many failures, less up to a half: Envoys that lost etcd together must not come back together.
/// There is no randomness in the VM, so the part comes from what differs between them.
fn rest_after(failures: u32, member: Member, now: Timestamp) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    let full = FIRST_REST.saturating_mul(doubled).min(LONGEST_REST);
    let seed = member.get() ^ now.as_millis().rotate_left(32);
    let part = xxhash_rust::xxh64::xxh64(&failures.to_le_bytes(), seed) >> 11;
    // 53 bits fit a double exactly.
    full.mul_f64(0.5 + 0.5 * (part as f64 / (1_u64 << 53) as f64))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::envoy::START;
    use super::*;
    use crate::testing::MemoryStore;

    #[test]
    fn pauses_double_up_to_a_limit_and_differ_between_members_and_moments() {
        let member = Member::enrol(&MemoryStore::default(), Timestamp::default());
        let pauses: Vec<u128> = (1..12).map(|failures| rest_after(failures, member, START).as_millis()).collect();
        for (failures, pause) in pauses.iter().enumerate() {
            let full = (100 << failures.min(10)).min(1_000);
            assert!((full / 2..=full).contains(pause), "{failures}: {pauses:?}");
        }
        let later = START.plus(Duration::from_millis(1));
        assert_ne!(rest_after(9, member, START), rest_after(9, member, later));
    }
}
