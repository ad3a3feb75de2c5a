//! The `shadow` section: which copied requests are compared, and how.

use std::time::Duration;

use super::guard::number;
use super::pattern::{JsonPointer, PathPrefix, PatternError};
use crate::json::{FieldError, FromJson, Json};
use crate::model::percent::Percent;
use crate::model::time::deserialize_span;

/// What is done with copied requests beyond sending them.
#[derive(Clone, Debug, PartialEq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Shadow {
    /// The candidate's answer is compared with the active colour's.
    pub compare: Box<Compare>,
}

/// Which requests are compared, and how.
#[derive(Clone, Debug, PartialEq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Compare {
    /// The share of the requests drawn by `shadow_percent` that is compared, above 0; 100 if it is left out.
    #[serde(default = "all", deserialize_with = "sample")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "sample_shares"))]
    pub sample_percent: Percent,
    /// The largest body of a request or an answer that is kept, in bytes, 1 KiB to 1 MiB; 64KiB if it is left out.
    #[serde(default = "default_max_body", deserialize_with = "body_size")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "body_sizes"))]
    pub max_body: usize,
    /// How many requests each worker thread compares at once, 1 to 64; 8 if it is left out.
    #[serde(default = "default_max_in_flight", deserialize_with = "in_flight")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "places"))]
    pub max_in_flight: usize,
    /// How long the candidate's answer is waited for, at most 60s; 5s if it is left out.
    #[serde(default = "default_timeout", deserialize_with = "timeout")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::span"))]
    pub timeout: Duration,
    /// The requests that may be sent twice because they change nothing, 1 to 16 rules.
    #[serde(deserialize_with = "safe")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 16)))]
    pub safe: Vec<SafeRequest>,
    /// What is not compared, at most 32 places in the answer.
    #[serde(default, deserialize_with = "ignored")]
    #[cfg_attr(feature = "schema", schemars(length(max = 32)))]
    pub ignore: Vec<IgnoredField>,
    /// The only place in the answer that is compared, whatever its protocol; absent: all that the protocol knows.
    pub pointer: Option<JsonPointer>,
    /// How far two numbers may be apart and still agree.
    #[serde(default)]
    pub tolerance: Tolerance,
    /// The share of the compared requests that the active colour is asked a second time; 5 if it is left out. 0: it never
    /// is, and each disagreement counts against the candidate.
    #[serde(default = "default_noise")]
    pub noise_percent: Percent,
    /// Whether the input of the last disagreements is kept, for everyone who may read the admin API.
    #[serde(default)]
    pub keep_inputs: bool,
    /// A number that stands for all of this as it was written.
    #[serde(skip)]
    pub digest: u64,
}

/// Requests that change nothing, so that they may be sent twice.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SafeRequest {
    /// Their method, in capitals.
    #[serde(deserialize_with = "method")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "methods"))]
    pub method: String,
    /// Their path, or its beginning up to a `/` or a `:`.
    pub path_prefix: PathPrefix,
}

/// A place in an answer, with all below it: a JSON pointer (RFC 6901) in which `*` stands for every element of a list and
/// every member of an object.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[serde(try_from = "JsonPointer")]
pub struct IgnoredField(Vec<String>);

/// How far two numbers may be apart and still agree: by at most the larger of both bounds.
#[derive(Clone, Copy, Debug, PartialEq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Tolerance {
    /// So far whatever their size, 0 or more.
    #[serde(deserialize_with = "bound")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "bounds"))]
    pub absolute: f64,
    /// So far as a share of the larger one, 0 or more and below 1.
    #[serde(deserialize_with = "share_of_size")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::share"))]
    pub relative: f64,
}

const SMALLEST_BODY: usize = 1 << 10;
const LARGEST_BODY: usize = 1 << 20;
const MOST_IN_FLIGHT: usize = 64;
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
const MOST_SAFE: usize = 16;
const MOST_IGNORED: usize = 32;

const fn all() -> Percent {
    Percent::ALL
}

const fn default_max_body() -> usize {
    64 << 10
}

const fn default_max_in_flight() -> usize {
    8
}

const fn default_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_noise() -> Percent {
    Percent::from_hundredths(500).unwrap_or(Percent::ZERO)
}

fn sample(json: &Json<'_>) -> Result<Percent, FieldError> {
    let share = Percent::from_json(json)?;
    if share > Percent::ZERO {
        Ok(share)
    } else {
        Err(FieldError::new("with 0 nothing would be compared: leave the section compare out"))
    }
}

fn body_size(json: &Json<'_>) -> Result<usize, FieldError> {
    const UNITS: [(&str, f64); 4] = [("KiB", 1024.0), ("MiB", 1_048_576.0), ("B", 1.0), ("", 1.0)];
    let read = match json.as_text() {
        Some(text) => UNITS.iter().find_map(|(unit, size)| {
            let number: f64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
            Some(number * size)
        }),
        None => json.as_f64(),
    };
    let fits = |size: &f64| (SMALLEST_BODY as f64..=LARGEST_BODY as f64).contains(size) && size.fract() == 0.0;
    match read.filter(fits) {
        Some(size) => Ok(size as usize),
        None => Err(FieldError::unfit(json, "a number of bytes or a text such as 64KiB, from 1KiB to 1MiB")),
    }
}

fn in_flight(json: &Json<'_>) -> Result<usize, FieldError> {
    match number(json)? {
        count if (1.0..=MOST_IN_FLIGHT as f64).contains(&count) && count.fract() == 0.0 => Ok(count as usize),
        _ => Err(FieldError::unfit(json, "a whole number from 1 to 64")),
    }
}

fn timeout(json: &Json<'_>) -> Result<Duration, FieldError> {
    let timeout = deserialize_span(json)?;
    if timeout <= LONGEST_TIMEOUT {
        Ok(timeout)
    } else {
        let given = humantime::format_duration(timeout);
        Err(FieldError::new(format!("{given} is too long to keep a request for: at most 1m")))
    }
}

fn safe(json: &Json<'_>) -> Result<Vec<SafeRequest>, FieldError> {
    let rules = Vec::<SafeRequest>::from_json(json)?;
    if let Some(rule) = rules.iter().find(|rule| rule.path_prefix.as_str().contains('%')) {
        let prefix = rule.path_prefix.as_str();
        return Err(FieldError::new(format!(
            "{prefix:?} would cover nothing: a path with a % may mean another to the server, so it is never sent twice; \
             end the prefix before it"
        )));
    }
    match rules.len() {
        0 => Err(FieldError::new(
            "no request may be sent twice, so none would be compared: list one that changes nothing, such as \
             {method: POST, path_prefix: /invocations}",
        )),
        1..=MOST_SAFE => Ok(rules),
        count => Err(FieldError::new(format!("{count} rules are too many: at most {MOST_SAFE}, join their prefixes"))),
    }
}

fn method(json: &Json<'_>) -> Result<String, FieldError> {
    let text = json.text()?;
    if !text.is_empty() && text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
        Ok(text.to_owned())
    } else {
        Err(FieldError::unfit(json, "a method in capitals, such as POST"))
    }
}

fn ignored(json: &Json<'_>) -> Result<Vec<IgnoredField>, FieldError> {
    let fields = Vec::<IgnoredField>::from_json(json)?;
    match fields.len() {
        0..=MOST_IGNORED => Ok(fields),
        count => Err(FieldError::new(format!(
            "{count} places are too many: at most {MOST_IGNORED}, use * for every element, or pointer for the one place \
             that counts"
        ))),
    }
}

fn bound(json: &Json<'_>) -> Result<f64, FieldError> {
    let bound = number(json)?;
    if bound.is_finite() && bound >= 0.0 {
        Ok(bound)
    } else {
        Err(FieldError::new(format!("{bound} is no distance: use 0 or more, such as 0.001")))
    }
}

fn share_of_size(json: &Json<'_>) -> Result<f64, FieldError> {
    let share = number(json)?;
    if (0.0..1.0).contains(&share) {
        Ok(share)
    } else {
        Err(FieldError::new(format!("{share} is not a share: use 0 or more, below 1, such as 0.001 for 0.1 %")))
    }
}

#[cfg(feature = "schema")]
fn sample_shares(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    crate::model::schema::between(0.01, 100.0)
}

#[cfg(feature = "schema")]
fn places(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    crate::model::schema::between(1.0, MOST_IN_FLIGHT as f64)
}

#[cfg(feature = "schema")]
fn body_sizes(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"anyOf": [
        {"type": "integer", "minimum": 1_024, "maximum": 1_048_576},
        {"type": "string", "pattern": r"^[0-9.eE+]+\s*(KiB|MiB|B)?$"}
    ]})
}

#[cfg(feature = "schema")]
fn methods(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    crate::model::schema::text("^[A-Z-]{1,32}$")
}

#[cfg(feature = "schema")]
fn bounds(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    crate::model::schema::between(0.0, f64::MAX)
}

// === impl Compare ===

impl Compare {
    /// Whether a request with this method and path may be sent twice.
    ///
    /// What follows a `?` does not count. A prefix covers the path itself, and what continues it with a `/` or a `:`
    /// (`/v1/models/iris` covers `/v1/models/iris:predict`). A path that a server may read in another way than it is
    /// written is covered by none: one with a `%`, a `\`, a `//`, a segment `.` or `..` (`;` ends a segment here, as in
    /// Java's servers), or a byte beyond ASCII's visible ones.
    pub fn is_safe(&self, method: &str, path: &str) -> bool {
        let path = path.split('?').next().unwrap_or_default();
        let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && !b"%\\#".contains(&byte));
        let walks = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
        // An empty last segment is a slash at the end.
        let has_gap = path.contains("//");
        plain
            && !has_gap
            && !path.split('/').any(walks)
            && self.safe.iter().any(|rule| rule.method == method && rule.covers(path))
    }
}

// === impl SafeRequest ===

impl SafeRequest {
    fn covers(&self, path: &str) -> bool {
        path.strip_prefix(self.path_prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':']))
    }
}

// === impl IgnoredField ===

impl IgnoredField {
    /// The names and list indices that lead to the place; `*` is every one. Empty for the whole answer.
    pub fn steps(&self) -> &[String] {
        &self.0
    }
}

impl TryFrom<JsonPointer> for IgnoredField {
    type Error = PatternError;

    fn try_from(pointer: JsonPointer) -> Result<Self, PatternError> {
        let unescaped = |step: &str| step.replace("~1", "/").replace("~0", "~");
        Ok(Self(pointer.as_str().split('/').skip(1).map(unescaped).collect()))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for IgnoredField {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IgnoredField".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        JsonPointer::json_schema(generator)
    }
}

// === impl Tolerance ===

impl Tolerance {
    /// Whether two numbers agree: `|a - b| ≤ max(absolute, relative · max(|a|, |b|))`. The order of the two makes no
    /// difference. What is not finite agrees with itself alone.
    pub fn agrees(&self, a: f64, b: f64) -> bool {
        if a == b || (a.is_nan() && b.is_nan()) {
            return true;
        }
        a.is_finite() && b.is_finite() && (a - b).abs() <= self.absolute.max(self.relative * a.abs().max(b.abs()))
    }
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { absolute: 0.0, relative: 1e-6 }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;

    const SAFE: &str = r#""safe": [{"method": "POST", "path_prefix": "/invocations"}]"#;

    fn compare(fields: &str) -> Result<Compare, FieldError> {
        json::from_str(&format!("{{{SAFE}{fields}}}"))
    }

    #[test]
    fn what_is_left_out_takes_its_documented_default() {
        let Compare { safe, tolerance, .. } = compare("").expect("valid");
        assert_eq!((safe.len(), tolerance), (1, Tolerance { absolute: 0.0, relative: 1e-6 }));
        let found = compare("").expect("valid");
        assert_eq!((found.sample_percent, found.noise_percent.hundredths()), (Percent::ALL, 500));
        assert_eq!((found.max_body, found.max_in_flight, found.timeout), (65_536, 8, Duration::from_secs(5)));
        assert_eq!((found.ignore.len(), found.pointer, found.keep_inputs), (0, None, false));
    }

    #[test]
    fn numbers_may_be_texts_as_envoy_writes_fractions() {
        let found = compare(
            r#", "sample_percent": "12.5", "max_body": "0.5MiB", "max_in_flight": "4", "noise_percent": "0",
            "tolerance": {"absolute": "0.01", "relative": "1e-3"}, "timeout": "1m", "pointer": "/a/0",
            "ignore": ["/id", "/choices/*/x~1y"], "keep_inputs": true"#,
        )
        .expect("valid");
        assert_eq!((found.max_body, found.max_in_flight), (524_288, 4));
        assert_eq!(found.tolerance, Tolerance { absolute: 0.01, relative: 0.001 });
        assert_eq!(found.ignore[1].steps(), ["choices", "*", "x/y"]);
        for (written, bytes) in [("1024", 1_024), ("\"1KiB\"", 1_024), ("\"64 KiB\"", 65_536), ("\"1048576\"", 1 << 20)]
        {
            assert_eq!(compare(&format!(r#", "max_body": {written}"#)).expect(written).max_body, bytes);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_way_out() {
        let cases = [
            (r#", "sample_percent": 0"#, "leave the section compare out"),
            (r#", "max_body": 1000"#, "from 1KiB to 1MiB"),
            (r#", "max_body": "2MiB""#, "from 1KiB to 1MiB"),
            (r#", "max_body": "64 kb""#, "from 1KiB to 1MiB"),
            (r#", "max_body": "1.0001KiB""#, "from 1KiB to 1MiB"),
            (r#", "max_in_flight": 0"#, "a whole number from 1 to 64"),
            (r#", "max_in_flight": 65"#, "a whole number from 1 to 64"),
            (r#", "timeout": "61s""#, "at most 1m"),
            (r#", "timeout": "0s""#, "too short"),
            (r#", "ignore": ["id"]"#, "not a JSON pointer"),
            (r#", "pointer": "x""#, "not a JSON pointer"),
            (r#", "tolerance": {"absolute": -1}"#, "use 0 or more"),
            (r#", "tolerance": {"absolute": "inf"}"#, "use 0 or more"),
            (r#", "tolerance": {"relative": 1}"#, "below 1"),
            (r#", "tolerance": {"relative": "NaN"}"#, "below 1"),
            (r#", "noise_percent": 101"#, "not between 0 and 100"),
            (r#", "shadow": 1"#, "unknown field `shadow`"),
        ];
        for (fields, reason) in cases {
            let error = compare(fields).expect_err(reason).to_string();
            assert!(error.contains(reason), "{fields}: {error}");
        }
        let many = vec![r#""/a""#; 33].join(", ");
        let error = compare(&format!(r#", "ignore": [{many}]"#)).expect_err("33").to_string();
        assert!(error.contains("use * for every element"), "{error}");
    }

    #[test]
    fn rules_about_what_is_safe_are_few_and_plain() {
        let rule = r#"{"method": "POST", "path_prefix": "/a"}"#;
        let cases = [
            ("[]".to_owned(), "list one that changes nothing"),
            (format!("[{}]", vec![rule; 17].join(", ")), "at most 16"),
            (r#"[{"method": "post", "path_prefix": "/a"}]"#.to_owned(), "a method in capitals"),
            (r#"[{"method": "", "path_prefix": "/a"}]"#.to_owned(), "a method in capitals"),
            (r#"[{"method": "POST", "path_prefix": "a"}]"#.to_owned(), "must start with /"),
            (r#"[{"method": "POST", "path_prefix": "/a/../b"}]"#.to_owned(), "plain path"),
            (r#"[{"method": "POST", "path_prefix": "/a%2Fb"}]"#.to_owned(), "would cover nothing"),
            (r#"[{"method": "POST"}]"#.to_owned(), "missing field `path_prefix`"),
        ];
        for (safe, reason) in cases {
            let error = json::from_str::<Compare>(&format!(r#"{{"safe": {safe}}}"#)).expect_err(reason).to_string();
            assert!(error.contains(reason), "{safe}: {error}");
        }
        let error = json::from_str::<Compare>("{}").expect_err("nothing is safe by itself").to_string();
        assert_eq!(error, "missing field `safe`");
    }

    #[test]
    fn only_what_is_plainly_inside_a_safe_prefix_may_be_sent_twice() {
        let rules: Compare = json::from_str(
            r#"{"safe": [{"method": "POST", "path_prefix": "/v1/models/iris/"}, {"method": "GET", "path_prefix": "/"}]}"#,
        )
        .expect("valid");
        let cases = [
            ("POST", "/v1/models/iris", true),
            ("POST", "/v1/models/iris/", true),
            ("POST", "/v1/models/iris:predict", true),
            ("POST", "/v1/models/iris/versions/2:predict?x=/../..", true),
            ("POST", "/v1/models/iris2", false),
            ("POST", "/v1/models", false),
            ("post", "/v1/models/iris", false),
            ("PUT", "/v1/models/iris", false),
            ("POST", "/v1/models/iris/../admin", false),
            ("POST", "/v1/models/iris/..;x=1/admin", false),
            ("POST", "/v1/models/iris/./a", false),
            ("POST", "/v1/models/iris//admin", false),
            ("POST", "/v1/models/iris/%2e%2e/admin", false),
            ("POST", "/v1/models/iris\\..\\admin", false),
            ("POST", "/v1/models/iris/\u{e9}", false),
            ("POST", "/v1/models/iris/a b", false),
            ("POST", "/v1/models/iris/a#b", false),
            ("POST", "", false),
            ("GET", "/", true),
            ("GET", "/any/path", true),
            ("GET", "any", false),
            ("GET", "//", false),
        ];
        for (method, path, is_safe) in cases {
            assert_eq!(rules.is_safe(method, path), is_safe, "{method} {path}");
        }
    }

    #[test]
    fn two_numbers_agree_in_either_order_or_in_none() {
        let tolerance = Tolerance { absolute: 0.5, relative: 0.1 };
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        let cases = [
            (1.0, 1.5, true),
            (1.0, 1.51, false),
            (90.0, 100.0, true),
            (89.0, 100.0, false),
            (-1.0, 1.0, false),
            (0.0, -0.0, true),
            (nan, nan, true),
            (nan, 1.0, false),
            (inf, inf, true),
            (inf, -inf, false),
            (inf, f64::MAX, false),
            (f64::MAX, f64::MIN, false),
        ];
        for (a, b, agree) in cases {
            assert_eq!((tolerance.agrees(a, b), tolerance.agrees(b, a)), (agree, agree), "{a} {b}");
        }
    }
}
