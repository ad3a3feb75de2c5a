//! Which configurations are in force in this Envoy, as a metric.
//!
//! Envoy keeps each name of a metric for ever, and a name has the configuration's number in it. So the first twenty have a
//! name of their own, and all that come after them share one.

use std::time::Duration;

use crate::host::Host;
use crate::json;
use crate::metrics::named::Named;
use crate::model::time::Timestamp;
use crate::store::key::Key;
use crate::store::{StoreError, update};

/// Each configuration with when it was last said to be in force.
type Known = Vec<(u64, Timestamp)>;

/// So many have a name of their own.
const MOST: usize = 20;

/// How often the leader says that its configuration is in force.
pub const SAID_EVERY: Duration = Duration::from_secs(5);

/// A configuration of which nobody has said that for so long has gone.
const GONE_AFTER: Duration = Duration::from_secs(15);

/// The name that the others share.
const OTHERS: &str = "other";

/// Says that a configuration is in force, and shows which are.
pub fn show(host: &dyn Host, configuration: u64) {
    let (mut known, now) = (Known::new(), host.now());
    let noted = update(host.store(), &Key::Configurations.to_string(), &mut |before| {
        known = json::from_slice(&before.value.unwrap_or_default()).unwrap_or_default();
        let is_full = known.len() >= MOST;
        match known.iter_mut().find(|(number, _)| *number == configuration) {
            Some((_, said)) => *said = now,
            None if is_full => return None,
            None => known.push((configuration, now)),
        }
        serde_json::to_vec(&known).ok()
    });
    // Without the store the last word stays.
    let _: Result<bool, StoreError> = noted;
    for (number, said) in &known {
        let is_in_force = u64::from(said.apart(now) < GONE_AFTER);
        host.set_gauge(&Named::BuildInfo(&label(*number)).to_string(), is_in_force);
    }
    if known.len() >= MOST {
        let is_other = known.iter().all(|(number, _)| *number != configuration);
        host.set_gauge(&Named::BuildInfo(OTHERS).to_string(), u64::from(is_other));
    }
}

fn label(configuration: u64) -> String {
    format!("{:08x}", configuration >> 32)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::host::TestHost;

    fn shown(host: &TestHost, configuration: &str) -> Option<u64> {
        host.gauge(&Named::BuildInfo(configuration).to_string())
    }

    #[test]
    fn a_configuration_is_one_while_it_is_in_force_and_zero_after_that() {
        let host = TestHost::default();
        let (first, second) = (0x0bad_cafe_0000_0000, 0x0000_00ff_0000_0000);
        show(&host, first);
        assert_eq!((shown(&host, "0badcafe"), shown(&host, "000000ff")), (Some(1), None));
        show(&host, second);
        assert_eq!((shown(&host, "0badcafe"), shown(&host, "000000ff")), (Some(1), Some(1)));
        host.pass(GONE_AFTER);
        show(&host, second);
        assert_eq!((shown(&host, "0badcafe"), shown(&host, "000000ff")), (Some(0), Some(1)));
    }

    #[test]
    fn a_hundred_configurations_have_no_more_than_twenty_one_names() {
        let host = TestHost::default();
        for number in 1..=100_u64 {
            show(&host, number << 32);
        }
        assert_eq!(host.gauges().len(), MOST + 1);
        assert_eq!(shown(&host, OTHERS), Some(1));
        show(&host, 1 << 32);
        assert_eq!(shown(&host, OTHERS), Some(0));
    }
}
