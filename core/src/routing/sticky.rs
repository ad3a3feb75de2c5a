//! Stickiness: which users see the candidate, without remembering any of them.

use xxhash_rust::xxh64::xxh64;

use crate::config::Salt;
use crate::model::name::{DeploymentName, Version};
use crate::model::percent::Percent;

/// Sends each key to the same colour for as long as the share does not fall.
///
/// A key's bucket is `xxh64(key, seed) mod 10,000`, with `seed = xxh64(deployment 0x00 candidate version, SEED)`, and
/// `0x00 salt` after the version where a salt is configured; it goes to the candidate if the bucket is below the share in hundredths of a percent. So a key on the candidate stays
/// there while the share grows, and each release draws its own early users. XXH64 is specified and the same on every
/// platform and in every release of this filter: <https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buckets {
    seed: u64,
}

/// One for each hundredth of a percent.
const BUCKETS: u64 = Percent::ALL.hundredths() as u64;
/// The bytes `bluegrn1`. Another value would move every user to another bucket: it never changes.
const SEED: u64 = u64::from_be_bytes(*b"bluegrn1");

// === impl Buckets ===

impl Buckets {
    /// The buckets of one release: a deployment with this candidate version. Without a salt, a client that knows both can
    /// work out which key it has to send to be in any bucket.
    pub fn new(deployment: &DeploymentName, candidate: &Version, salt: Option<&Salt>) -> Self {
        let mut release = deployment.as_str().as_bytes().to_vec();
        // Neither name nor version can hold a zero byte, so two different releases cannot run together into one text.
        release.push(0);
        release.extend_from_slice(candidate.as_str().as_bytes());
        if let Some(salt) = salt {
            release.push(0);
            release.extend_from_slice(salt.as_str().as_bytes());
        }
        Self { seed: xxh64(&release, SEED) }
    }

    /// The number that stands for `key` in this release.
    pub fn hash(self, key: &[u8]) -> u64 {
        xxh64(key, self.seed)
    }

    /// Whether the key with this hash belongs to the candidate's `share`.
    pub fn choose(hash: u64, share: Percent) -> bool {
        bucket(hash) < u64::from(share.hundredths())
    }
}

fn bucket(hash: u64) -> u64 {
    // 2^64 is no multiple of 10,000, which favours some buckets by 1 in 10^15.
    hash % BUCKETS
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::{iris, percent};

    fn release(version: &str) -> Buckets {
        Buckets::new(&iris(), &Version::new(version).expect("valid"), None)
    }

    fn salted(version: &str, salt: &str) -> Buckets {
        let salt = Salt::try_from(salt.to_owned()).expect("not empty");
        Buckets::new(&iris(), &Version::new(version).expect("valid"), Some(&salt))
    }

    fn chooses(release: Buckets, key: &[u8], share: &str) -> bool {
        Buckets::choose(release.hash(key), percent(share))
    }

    #[test]
    fn who_does_not_know_the_salt_does_not_know_the_bucket() {
        let early = |buckets: Buckets| {
            (0..10_000_u32).filter(move |user| chooses(buckets, &user.to_be_bytes(), "10")).collect::<Vec<_>>()
        };
        let without = early(release("2"));
        for salted in [salted("2", "a"), salted("2", "b")] {
            let chosen = early(salted);
            // Five standard deviations of a binomial draw are 150 of 1,000, and 50 of the 100 in both.
            assert!((850..1_150).contains(&chosen.len()), "{}", chosen.len());
            let both = chosen.iter().filter(|user| without.contains(user)).count();
            assert!((50..150).contains(&both), "{both} of about 100 expected by chance");
        }
        assert_ne!(salted("2", "a"), salted("2", "b"));
        assert_ne!(salted("2", "a"), release("2a"));
        assert_eq!(salted("2", "a").hash(b"alice"), salted("2", "a").hash(b"alice"));
    }

    #[test]
    fn buckets_are_the_same_on_every_platform_and_in_every_release_of_the_filter() {
        let buckets: Vec<u64> =
            [&b"alice"[..], b"bob", b"", b"\xff"].iter().map(|key| bucket(release("2").hash(key))).collect();
        assert_eq!(buckets, PINNED);
    }

    /// As the C implementation's Python binding (`xxhash`) computes them too. A difference would redraw every user.
    const PINNED: [u64; 4] = [1_874, 9_948, 6_897, 7_864];

    #[test]
    fn the_share_of_many_keys_is_the_share_asked_for() {
        for share in ["1", "10", "50"] {
            let chosen =
                (0..100_000_u32).filter(|user| chooses(release("2"), &user.to_be_bytes(), share)).count() as f64;
            let expected = 1_000.0 * share.parse::<f64>().expect("a number");
            // Four standard deviations of a binomial draw.
            let tolerance = 4.0 * (expected * (1.0 - expected / 100_000.0)).sqrt();
            assert!((chosen - expected).abs() < tolerance, "{share} %: {chosen}");
        }
    }

    #[test]
    fn each_release_draws_its_own_early_users() {
        let early = |version| (0..10_000_u32).filter(move |user| chooses(release(version), &user.to_be_bytes(), "10"));
        let both = early("2").filter(|user| chooses(release("3"), &user.to_be_bytes(), "10")).count();
        assert!((50..150).contains(&both), "{both} of about 100 expected by chance");
    }

    #[test]
    fn nought_is_nobody_and_a_hundred_is_everybody() {
        assert!((0..20_000_u32).all(|user| !chooses(release("2"), &user.to_be_bytes(), "0")));
        assert!((0..20_000_u32).all(|user| chooses(release("2"), &user.to_be_bytes(), "100")));
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn a_key_on_the_candidate_stays_there_while_the_share_grows(
            key in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
            lower in 0..=10_000_u16,
            higher in 0..=10_000_u16,
        ) {
            let (lower, higher) = (lower.min(higher), lower.max(higher));
            let [lower, higher] = [lower, higher].map(|share| Percent::from_hundredths(share).expect("in range"));
            let hash = release("2").hash(&key);
            proptest::prop_assert!(!Buckets::choose(hash, lower) || Buckets::choose(hash, higher));
        }
    }
}
