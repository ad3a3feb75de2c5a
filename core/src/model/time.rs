//! Points in time and spans of time, as numbers that the host hands in.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time: milliseconds since the Unix epoch. In JSON it is RFC 3339 in UTC (`2026-11-23T15:00:00.000Z`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

/// How often an instance of the filter looks after what waits for time to pass: whether it leads, calls that wait, sources
/// that are due. No period can be shorter.
pub const TICK: Duration = Duration::from_millis(250);

// === impl Timestamp ===

impl Timestamp {
    /// The last millisecond of the year 9999, beyond which RFC 3339 has no notation.
    const LAST: u64 = 253_402_300_799_999;

    /// From milliseconds since the Unix epoch; later than the year 9999 counts as its last millisecond.
    pub const fn from_millis(millis: u64) -> Self {
        if millis > Self::LAST { Self(Self::LAST) } else { Self(millis) }
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to this; zero when the clock was set back in between.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This point plus `span`.
    pub fn plus(self, span: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(millis(span)))
    }

    /// This point less `span`, not before the epoch.
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(millis(span)))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self::from_millis(time.duration_since(UNIX_EPOCH).map_or(0, millis))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = UNIX_EPOCH.checked_add(Duration::from_millis(self.0)).unwrap_or(UNIX_EPOCH);
        write!(f, "{}", humantime::format_rfc3339_millis(time))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map(Self::from).map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
    }
}

// === spans ===

/// Whole milliseconds of a span, at most `u64::MAX`.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Reads a span such as `500ms`, `2s`, `10m` or `1h 30m`, for `#[serde(deserialize_with)]`.
///
/// # Errors
/// The text is not a span with a unit, or it is under a millisecond: every span in the configuration is a period or a
/// limit, Envoy counts them in milliseconds, and a limit of none is no limit to it.
pub fn deserialize_span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    match humantime::parse_duration(&text) {
        Ok(span) if millis(span) == 0 => Err(D::Error::custom(format!("{text:?} is no time at all: at least 1ms"))),
        Ok(span) => Ok(span),
        Err(error) => Err(D::Error::custom(format!("{text:?} is not a time such as 500ms, 2s or 10m: {error}"))),
    }
}

/// As [`deserialize_span`], for a span that may be left out.
///
/// # Errors
/// As there.
pub fn deserialize_optional_span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    deserialize_span(deserializer).map(Some)
}

/// Reads how long the filter waits for a model server, at most four minutes, for `#[serde(deserialize_with)]`.
///
/// # Errors
/// As for [`deserialize_span`], or it is too long.
pub fn deserialize_timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let timeout = deserialize_span(deserializer)?;
    if timeout > LONGEST_TIMEOUT {
        let [given, longest] = [timeout, LONGEST_TIMEOUT].map(humantime::format_duration);
        return Err(D::Error::custom(format!("{given} is too long to wait for an answer: at most {longest}")));
    }
    Ok(timeout)
}

/// Beyond this an operator who waits for the outcome has lost the connection.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(240);

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn timestamps_are_rfc_3339_with_milliseconds_in_utc() {
        let at = Timestamp::from_millis(1_795_446_000_123);
        assert_eq!(at.to_string(), "2026-11-23T15:00:00.123Z");
        let json = serde_json::to_string(&at).expect("serialises");
        assert_eq!(serde_json::from_str::<Timestamp>(&json).expect("parses"), at);
    }

    #[test]
    fn the_largest_number_is_still_a_date() {
        assert_eq!(Timestamp::from_millis(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_clock_set_back_makes_no_negative_span() {
        let (early, late) = (Timestamp::from_millis(1), Timestamp::from_millis(5));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late.since(early), Duration::from_millis(4));
    }
}
