//! Points in time and spans of time, as numbers that the host hands in.
//!
//! There are two kinds. A [`Timestamp`] is what a clock on the wall says: people read it, it can be kept, and setting the
//! machine's clock makes it jump. A [`Moment`] only goes forward, counts for one instance of the filter, and can neither be
//! shown nor kept. Whatever waits for time to pass waits for a moment: the host sleeps for a span, never until a timestamp.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json::{self, FieldError, FromJson, Json};

/// A point in time: milliseconds since the Unix epoch. In JSON it is RFC 3339 in UTC (`2026-11-23T15:00:00.000Z`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

/// A point in the life of one instance of the filter: milliseconds since it began. It never goes back, and no jump of the wall
/// clock moves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// Both clocks of an instance, from nothing but the wall clock of its machine, which the host reads at each tick.
///
/// A tick at which it stands before the last one, or far behind it, is a jump. Then as much time has passed as there is between
/// two ticks; and the time that was shown goes on as if nothing had happened until the jump has lasted for [`DOUBTED_FOR`], so
/// that a glitch of some ticks leaves no trace.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    moment: Moment,
    /// What the wall clock said at the last tick.
    read: Timestamp,
    /// What of that was believed.
    shown: Timestamp,
    doubted_for: Duration,
}

/// How often an instance of the filter looks after what waits for time to pass: whether it leads, calls that wait, sources
/// that are due. No period can be shorter.
pub const TICK: Duration = Duration::from_millis(250);

/// By how many milliseconds a wall clock was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockStep(i64);

/// A thread that was held up for longer than this cannot be told from one whose clock was set.
const LONGEST_TICK: Duration = Duration::from_secs(5);

/// So far a clock may be off what was expected of it: one that is kept right is moved by less.
const BELIEVED: Duration = Duration::from_secs(5);

/// How long a clock is not believed that has jumped.
const DOUBTED_FOR: Duration = Duration::from_secs(3);

/// The clocks of the Envoys of a fleet differ by less than this. A point that lies further ahead was noted by a clock that was
/// set back since.
pub const SKEW: Duration = Duration::from_secs(60);

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

    /// How far this is from `other`, in either direction.
    pub const fn apart(self, other: Self) -> Duration {
        Duration::from_millis(self.0.abs_diff(other.0))
    }

    /// This point, moved along with a clock that was set.
    #[must_use]
    pub const fn set_along(self, step: ClockStep) -> Self {
        Self::from_millis(self.0.saturating_add_signed(step.0))
    }

    /// Whether this was noted by a clock that was set back since.
    pub fn is_ahead_of(self, now: Self) -> bool {
        self > now.plus(SKEW)
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
        json::by_serde(deserializer)
    }
}

impl FromJson for Timestamp {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        let text = json.text()?;
        humantime::parse_rfc3339(text).map(Self::from).map_err(|error| FieldError::new(format!("{text:?}: {error}")))
    }
}

// === impl Moment ===

impl Moment {
    /// When the instance began.
    pub const BEGIN: Self = Self(0);

    /// This moment plus `span`.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis(span)))
    }

    /// Time from `earlier` to this; zero if that is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

// === impl Clock ===

impl Clock {
    /// That of an instance that begins now.
    pub const fn new(wall: Timestamp) -> Self {
        Self { moment: Moment(0), read: wall, shown: wall, doubted_for: Duration::ZERO }
    }

    /// The moment of the last tick.
    pub const fn moment(&self) -> Moment {
        self.moment
    }

    /// The moment at which the wall clock says this after the last tick.
    pub fn moment_at(&self, wall: Timestamp) -> Moment {
        let passed = wall.since(self.read);
        if passed > LONGEST_TICK { self.moment } else { self.moment.plus(passed) }
    }

    /// The time, where the wall clock says this between two ticks.
    pub fn time(&self, wall: Timestamp) -> Timestamp {
        let is_near = self.doubted_for.is_zero() && wall.apart(self.read) <= LONGEST_TICK;
        if is_near { wall } else { self.shown }
    }

    /// A tick has come, `period` or more after the last one, at which the wall clock says this. The time.
    pub fn tick(&mut self, wall: Timestamp, period: Duration) -> Timestamp {
        let moved = wall.since(self.read);
        let jumped = wall < self.read || moved > LONGEST_TICK;
        let passed = if jumped { period } else { moved };
        let expected = self.shown.plus(passed);
        self.moment = self.moment.plus(passed);
        self.read = wall;
        self.doubted_for = self.doubted_for.saturating_add(passed);
        if wall.apart(expected) <= BELIEVED || self.doubted_for > DOUBTED_FOR {
            self.shown = wall;
            self.doubted_for = Duration::ZERO;
        } else {
            self.shown = expected;
        }
        self.shown
    }
}

// === impl ClockStep ===

impl ClockStep {
    /// Whether it was set back.
    pub const fn is_back(self) -> bool {
        self.0 < 0
    }

    /// By how much the wall clock was set between two looks at both clocks; none when it just went on.
    pub fn between((then, then_moment): (Timestamp, Moment), (now, moment): (Timestamp, Moment)) -> Option<Self> {
        let expected = then.plus(moment.since(then_moment));
        let step = i64::try_from(now.apart(expected).as_millis()).unwrap_or(i64::MAX);
        (now.apart(expected) > BELIEVED).then_some(Self(if now < expected { step.saturating_neg() } else { step }))
    }
}

impl fmt::Display for ClockStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = humantime::format_duration(Duration::from_secs(self.0.unsigned_abs() / 1_000));
        write!(f, "{} by {span}", if self.0 < 0 { "back" } else { "forward" })
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
pub fn deserialize_span(json: &Json<'_>) -> Result<Duration, FieldError> {
    let text = json.text()?;
    match humantime::parse_duration(text) {
        Ok(span) if millis(span) == 0 => Err(FieldError::new(format!("{text:?} is too short: at least 1ms"))),
        Ok(span) => Ok(span),
        Err(error) => Err(FieldError::new(format!("{text:?} is not a time such as 500ms, 2s or 10m: {error}"))),
    }
}

/// As [`deserialize_span`], for a span that may be left out.
///
/// # Errors
/// As there.
pub fn deserialize_optional_span(json: &Json<'_>) -> Result<Option<Duration>, FieldError> {
    deserialize_span(json).map(Some)
}

/// Reads how long the filter waits for a model server, at most four minutes, for `#[serde(deserialize_with)]`.
///
/// # Errors
/// As for [`deserialize_span`], or it is too long.
pub fn deserialize_timeout(json: &Json<'_>) -> Result<Duration, FieldError> {
    let timeout = deserialize_span(json)?;
    if timeout > LONGEST_TIMEOUT {
        let [given, longest] = [timeout, LONGEST_TIMEOUT].map(humantime::format_duration);
        return Err(FieldError::new(format!("{given} is too long to wait for an answer: at most {longest}")));
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
        assert_eq!(json::from_str::<Timestamp>(&json).expect("parses"), at);
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

    const HOUR: u64 = 3_600_000;
    const CENTURY: u64 = 100 * 365 * 24 * HOUR;
    const NOON: u64 = 1_795_446_000_000;

    /// A clock after ticks at which the wall clock was off by these many milliseconds.
    fn after(offsets: &[i64]) -> (Clock, Timestamp) {
        let mut clock = Clock::new(Timestamp::from_millis(NOON));
        let mut wall = NOON;
        let mut shown = Timestamp::from_millis(NOON);
        for offset in offsets {
            wall += 250;
            shown = clock.tick(Timestamp::from_millis(wall.saturating_add_signed(*offset)), TICK);
        }
        (clock, shown)
    }

    #[test]
    fn no_jump_of_the_wall_clock_hurries_or_holds_up_what_waits() {
        for jump in [0, 1, -1, HOUR as i64, -(HOUR as i64), CENTURY as i64, -(CENTURY as i64) / 2] {
            for offsets in [[0, jump, jump, jump], [0, jump, 0, 0], [jump, 0, jump, 0]] {
                let (clock, _) = after(&offsets);
                let off = clock.moment().since(Moment::BEGIN).as_millis().abs_diff(1_000);
                assert!(off <= 4, "{offsets:?}: {off} ms");
            }
        }
    }

    #[test]
    fn a_glitch_is_not_believed_and_a_clock_that_stays_where_it_was_set_is() {
        for jump in [HOUR as i64, -(HOUR as i64), CENTURY as i64, -(CENTURY as i64) / 2] {
            let (_, shown) = after(&[0, jump]);
            assert_eq!(shown.as_millis(), NOON + 500, "{jump}");
            let (clock, shown) = after(&[0, jump, 0]);
            assert_eq!(shown.as_millis(), NOON + 750, "{jump}");
            let next = Timestamp::from_millis(NOON + 800);
            assert_eq!(clock.time(next), next);
            let (clock, shown) = after(&[jump; 14]);
            let set = (NOON + 14 * 250).saturating_add_signed(jump);
            assert_eq!(shown.as_millis(), Timestamp::from_millis(set).as_millis(), "{jump}");
            assert_eq!(clock.time(shown.plus(TICK)), shown.plus(TICK));
        }
    }

    #[test]
    fn between_ticks_a_glitch_is_not_believed_either() {
        let (clock, shown) = after(&[0]);
        assert_eq!(clock.time(Timestamp::from_millis(NOON + CENTURY)), shown);
        assert_eq!(clock.time(Timestamp::from_millis(NOON + 400)).as_millis(), NOON + 400);
    }

    #[test]
    fn a_thread_that_was_held_up_for_some_seconds_has_that_time_behind_it() {
        let (clock, shown) = after(&[0, 4_000]);
        assert_eq!(clock.moment().since(Moment::BEGIN), Duration::from_millis(4_500));
        assert_eq!(shown.as_millis(), NOON + 4_500);
    }

    #[test]
    fn what_a_clock_was_set_by_is_known_from_the_other_clock() {
        let look = |wall, moment| (Timestamp::from_millis(wall), Moment(moment));
        for (wall, expected) in [
            (NOON + 250, None),
            (NOON + 3_000, None),
            (NOON + HOUR + 250, Some(ClockStep(HOUR as i64))),
            (NOON - HOUR + 250, Some(ClockStep(-(HOUR as i64)))),
        ] {
            let step = ClockStep::between(look(NOON, 1_000), look(wall, 1_250));
            assert_eq!(step, expected);
            if let Some(step) = step {
                assert_eq!(Timestamp::from_millis(NOON).set_along(step).apart(Timestamp::from_millis(wall)), TICK);
            }
        }
    }
}
