//! Why a call was not done: RFC 9457 problem details, one kind for each rule.

use std::fmt;

use crate::change::error::{ChangeError, Rejection};
use crate::model::colour::Colour;
use crate::model::name::{DeploymentName, HeaderName};
use crate::state::Refusal;
use crate::state::rollout;

/// A call that was not done. Its text says what was wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The path breaks a rule of its form.
    MalformedPath(&'static str),
    /// A part of the query is not percent-encoded UTF-8.
    MalformedQuery(String),
    /// The `If-Match` header is no list of entity tags.
    MalformedIfMatch(String),
    /// A parameter is given twice, in query or body or once in each.
    DuplicateParameter(String),
    /// A parameter that the call does not have.
    UnknownParameter {
        /// Its name.
        name: String,
        /// Those that the call has.
        known: &'static [&'static str],
    },
    /// A parameter that the call cannot do without.
    MissingParameter(&'static str),
    /// The body is no JSON object.
    InvalidJson(String),
    /// So many calls wait for their answers that this one is not taken.
    Busy,
    /// A wrong token, while so many callers with wrong tokens wait that this one is not made to.
    TooManyGuesses,
    /// A web page of another site had a browser send it: what the browser says about it.
    CrossOrigin(String),
    /// The `Host` of a call to an open API, which is not this machine.
    ForeignHost(String),
    /// The address at which an open API was reached, which others can reach.
    OpenElsewhere(String),
    /// The body announced did not come.
    BodyMissing,
    /// The body is larger than [`MAX_BODY`].
    BodyTooLarge,
    /// No token, or an unknown one.
    Unauthenticated {
        /// Whether there was one.
        presented: bool,
    },
    /// The token's role is too low.
    Forbidden {
        /// Its holder.
        name: String,
    },
    /// Nothing is found under the path.
    UnknownPath(String),
    /// The configuration has no such deployment.
    UnknownDeployment(DeploymentName),
    /// The path does not take the method.
    MethodNotAllowed {
        /// The method.
        method: String,
        /// Those that it takes.
        allow: String,
    },
    /// A rule of the state.
    Refused(Refusal),
    /// A change was not made.
    Change(ChangeError),
    /// There is no smoke test to run.
    NoSmokeTest,
    /// Answers are not compared.
    NoComparison,
    /// Nothing waits to come behind this colour, which is active.
    NothingToTest(Colour),
    /// There are no steps to take.
    NoRolloutPlan,
    /// Something still needs the colour.
    NotDrained {
        /// The colour.
        colour: Colour,
        /// What needs it.
        blockers: String,
    },
    /// A parameter's value is out of its range.
    InvalidValue {
        /// The parameter.
        name: String,
        /// What is wrong with the value.
        problem: String,
    },
    /// A patch that names no field.
    EmptyPatch,
    /// No deployment takes deliveries.
    NoWebhook,
    /// No webhook's secret came in this header, so that no delivery can be verified.
    WebhookSecretMissing(HeaderName),
    /// A delivery without the signature that its secret makes.
    BadSignature,
    /// A delivery that was signed too long ago, or by a clock that is ahead.
    StaleDelivery,
    /// A delivery that was taken before.
    ReplayedDelivery,
    /// The shared store cannot be read.
    StoreUnavailable,
    /// Not every deployment's state has come from the fleet's store.
    NotReady(Vec<DeploymentName>),
}

/// The largest request body, in bytes. The largest that means anything is under 2 KiB.
pub const MAX_BODY: usize = 64 * 1024;

/// What a client sent, quoted: of something long the beginning.
struct Shortened<'t>(&'t str);

/// So many bytes of what a client sent are kept to be shown.
const MOST_SHOWN: usize = 1_024;

/// A refusal as a sentence.
struct Sentence<'t>(&'t str);

/// So many deployments are named to somebody without a token.
const MOST_NAMES: usize = 16;

/// How an operator gets past a rule about readiness.
const OVERRIDE: &str = "force=true switches anyway, and is recorded as forced.";

// === impl Problem ===

impl Problem {
    /// HTTP status, the last part of the `type`, and the title.
    pub const fn kind(&self) -> (u32, &'static str, &'static str) {
        match self {
            Self::MalformedPath(_) => (400, "malformed-path", "Malformed path"),
            Self::MalformedQuery(_) => (400, "malformed-query", "Malformed query string"),
            Self::MalformedIfMatch(_) => (400, "malformed-if-match", "Malformed If-Match header"),
            Self::DuplicateParameter(_) => (400, "duplicate-parameter", "Duplicate parameter"),
            Self::UnknownParameter { .. } => (400, "unknown-parameter", "Unknown parameter"),
            Self::MissingParameter(_) => (422, "missing-parameter", "Missing parameter"),
            Self::InvalidJson(_) => (400, "invalid-json", "Invalid JSON body"),
            Self::BodyMissing => (408, "body-missing", "Request body did not arrive"),
            Self::BodyTooLarge => (413, "body-too-large", "Request body too large"),
            Self::Busy => (503, "busy", "Too many calls are waiting"),
            Self::TooManyGuesses => (429, "too-many-guesses", "Too many wrong tokens"),
            Self::CrossOrigin(_) => (403, "cross-origin", "Sent by a web page"),
            Self::ForeignHost(_) => (403, "foreign-host", "Host not allowed"),
            Self::OpenElsewhere(_) => (403, "open-elsewhere", "Open API reached from elsewhere"),
            Self::Unauthenticated { .. } => (401, "unauthenticated", "A valid token is needed"),
            Self::Forbidden { .. } => (403, "forbidden", "Role too low"),
            Self::UnknownPath(_) => (404, "unknown-path", "No such path"),
            Self::UnknownDeployment(_) => (404, "unknown-deployment", "No such deployment"),
            Self::MethodNotAllowed { .. } => (405, "method-not-allowed", "Method not allowed"),
            Self::Refused(refusal) | Self::Change(ChangeError::Rejected(Rejection::Refused(refusal), _)) => {
                kind_of_refusal(*refusal)
            }
            Self::Change(error @ ChangeError::Rejected(Rejection::Unhealthy { .. }, _)) => {
                (409, error.problem(), "Colour not healthy")
            }
            Self::Change(error @ ChangeError::Rejected(Rejection::Untested { .. }, _)) => {
                (409, error.problem(), "Smoke test not passed")
            }
            Self::Change(error @ ChangeError::Rejected(Rejection::NotRouted { .. }, _)) => {
                (409, error.problem(), "Requests go elsewhere")
            }
            Self::Change(error @ ChangeError::Rejected(Rejection::Superseded, _)) => {
                (412, error.problem(), "Another change came first")
            }
            Self::Change(ChangeError::StoreUnavailable | ChangeError::FleetUnavailable { .. })
            | Self::StoreUnavailable => (503, "store-unavailable", "Shared store not available"),
            Self::Change(error @ ChangeError::OutcomeUnknown { .. }) => (504, error.problem(), "Outcome not known"),
            Self::Change(error @ ChangeError::Rejected(Rejection::Unproven { .. }, _)) => {
                (409, error.problem(), "Way back replaced")
            }
            Self::NothingToTest(_) => (409, "nothing-to-test", "Nothing to test"),
            Self::NoSmokeTest => (409, "no-smoke-test", "No smoke test"),
            Self::NoComparison => (409, "no-comparison", "Answers are not compared"),
            Self::NoRolloutPlan => (409, "no-rollout-plan", "No rollout configured"),
            Self::NotDrained { .. } => (409, "not-drained", "Colour still needed"),
            Self::InvalidValue { .. } => (422, "invalid-value", "Invalid value"),
            Self::EmptyPatch => (422, "empty-patch", "Nothing to change"),
            Self::NoWebhook => (404, "no-webhook", "No webhook"),
            Self::WebhookSecretMissing(_) => (503, "webhook-secret-missing", "Webhook not set up"),
            Self::BadSignature => (401, "bad-signature", "Signature not valid"),
            Self::StaleDelivery => (401, "stale-delivery", "Delivery too old"),
            Self::ReplayedDelivery => (409, "replayed-delivery", "Delivery taken before"),
            Self::NotReady(_) => (503, "not-ready", "Not up to date with the fleet yet"),
        }
    }

    /// Whether it is the deployment's state, or its configuration, that stands against the call.
    pub const fn is_conflict(&self) -> bool {
        self.kind().0 == 409
    }

    /// Why a call was refused that may be part of an attack; none for what a caller who is let in may get wrong.
    pub const fn refusal_reason(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unauthenticated { presented: false } => "no-token",
            Self::Unauthenticated { presented: true } => "wrong-token",
            Self::Forbidden { .. }
            | Self::Busy
            | Self::CrossOrigin(_)
            | Self::ForeignHost(_)
            | Self::OpenElsewhere(_)
            | Self::BadSignature
            | Self::StaleDelivery
            | Self::ReplayedDelivery
            | Self::BodyMissing
            | Self::BodyTooLarge => self.kind().1,
            _ => return None,
        })
    }

    /// The header that the status asks for.
    pub fn header(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Unauthenticated { .. } => Some(("www-authenticate", "Bearer realm=\"bluegreen\"")),
            Self::BadSignature | Self::StaleDelivery => Some(("www-authenticate", "MLflow-Signature")),
            Self::MethodNotAllowed { allow, .. } => Some(("allow", allow)),
            Self::StoreUnavailable
            | Self::Change(ChangeError::StoreUnavailable | ChangeError::FleetUnavailable { .. })
            | Self::NotReady(_)
            | Self::Busy
            | Self::TooManyGuesses => Some(("retry-after", "1")),
            _ => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MalformedPath(rule) => write!(f, "The path cannot be used: {rule}."),
            Self::MalformedQuery(part) => {
                let part = Shortened(part);
                write!(f, "{part} is not percent-encoded UTF-8: write a literal % as %25, & as %26, a space as %20.")
            }
            Self::MalformedIfMatch(header) => {
                let header = Shortened(header);
                write!(
                    f,
                    "{header} is not an entity tag: send the ETag of an earlier answer with its quotes, as in If-Match: \"7\"."
                )
            }
            Self::DuplicateParameter(name) => {
                write!(f, "{} is given more than once: give it once, in the query or in the body.", Shortened(name))
            }
            Self::UnknownParameter { name, known: [] } => {
                write!(f, "{} is given, but this call takes no parameters.", Shortened(name))
            }
            Self::UnknownParameter { name, known } => {
                write!(f, "{} is not a parameter of this call: use {}.", Shortened(name), known.join(", "))
            }
            Self::MissingParameter(name) => write!(f, "The parameter {name} is missing: give it in the query or in the body."),
            Self::InvalidJson(error) => {
                write!(
                    f,
                    "The body is not a JSON object: {error}. Send {{\"name\": value}} pairs, or use the query string."
                )
            }
            Self::BodyMissing => f.write_str(
                "The request announces a body that did not arrive in full within 5 s. If it was sent, this listener \
                 does not hand bodies to the filter (allow_on_headers_stop_iteration is off, as in a mesh): give the \
                 parameters in the query string.",
            ),
            Self::Busy => f.write_str(
                "Too many calls wait for their answers in this worker, such as drains and calls whose bodies have not \
                 arrived. Nothing was changed. Repeat the call in a second.",
            ),
            Self::TooManyGuesses => f.write_str(
                "Many calls with wrong tokens have come. Send the header Authorization: Bearer TOKEN, with a token whose \
                 SHA-256 is under admin.tokens. A call with a right token is answered at any time.",
            ),
            Self::CrossOrigin(said) => write!(
                f,
                "A browser sent this for a page of another site ({}). Call the API from a program such as curl.",
                Shortened(said)
            ),
            Self::ForeignHost(host) => write!(
                f,
                "The Host is {}. An API with open: true answers to localhost and to addresses of the loopback only, so that \
                 no web page reaches it under a name of its own. Use one of these, or tokens in place of open.",
                Shortened(host)
            ),
            Self::OpenElsewhere(address) => write!(
                f,
                "With open: true everybody may do everything, so it works on loopback only, and this listener was reached at \
                 {}. Bind the listener to 127.0.0.1, or give admin.tokens in place of open.",
                Shortened(address)
            ),
            Self::BodyTooLarge => {
                write!(f, "The body is larger than {MAX_BODY} bytes: send the parameters of this call only.")
            }
            Self::Unauthenticated { presented: false } => f.write_str(
                "Send the header Authorization: Bearer TOKEN, with a token whose SHA-256 is under admin.tokens.",
            ),
            Self::Unauthenticated { presented: true } => {
                f.write_str(
                    "The token is not known: no SHA-256 under admin.tokens is that of a bearer token in the header \
                     Authorization. Send one that is, as Authorization: Bearer TOKEN.",
                )
            }
            Self::Forbidden { name } => write!(f, "{name:?} is a viewer, and this call takes an operator: send an operator's token."),
            Self::UnknownPath(path) => write!(f, "{} is not a path of this API: GET …/v1/openapi.json describes it.", Shortened(path)),
            Self::UnknownDeployment(name) => {
                write!(f, "No deployment is called {:?}: GET …/v1/deployments lists them.", name.as_str())
            }
            Self::MethodNotAllowed { method, allow } => {
                write!(f, "{} is not a method of this path: use {allow}.", Shortened(method))
            }
            Self::Refused(refusal) | Self::Change(ChangeError::Rejected(Rejection::Refused(refusal), _)) => {
                write!(f, "{}", Sentence(&refusal.to_string()))
            }
            Self::Change(
                error @ ChangeError::Rejected(
                    Rejection::Unhealthy { .. }
                    | Rejection::Untested { .. }
                    | Rejection::Unproven { .. }
                    | Rejection::NotRouted { .. },
                    _,
                ),
            ) => {
                write!(f, "{error}. {OVERRIDE}")
            }
            Self::Change(error) => error.fmt(f),
            Self::NoComparison => f.write_str(
                "Answers to copied requests go to nobody: add shadow: {compare: {safe: [{method: POST, path_prefix: /invocations}]}} to \
                 the deployment's configuration.",
            ),
            Self::NoSmokeTest => f.write_str(
                "The deployment's configuration has no smoke_test section: add one with the requests to send.",
            ),
            Self::NothingToTest(colour) => write!(
                f,
                "{colour} is active and no version waits to come there: POST …/test without colour tests the candidate."
            ),
            Self::NoRolloutPlan => f.write_str(
                "The deployment's configuration has no rollout section: add one with the steps to take, or set \
                 canary_percent yourself.",
            ),
            Self::NotDrained { colour, blockers } => write!(f, "{colour} is not safe to stop: {blockers}."),
            Self::InvalidValue { name, problem } => write!(f, "{name}: {problem}."),
            Self::EmptyPatch => f.write_str("Name at least one of active, canary_percent, shadow_percent."),
            Self::NoWebhook => f.write_str(
                "No deployment's mlflow section has a webhook section: add one, or leave it to polling to ask the registry.",
            ),
            Self::WebhookSecretMissing(header) => write!(
                f,
                "Envoy put no secret into {header}: place its credential injector before this filter, with a secret \
                 that is not empty. Until then the registry is polled only."
            ),
            Self::BadSignature => f.write_str(
                "X-MLflow-Signature is not v1, and the HMAC-SHA256 of delivery id, timestamp and body with the secret \
                 that Envoy holds: give the webhook in MLflow the same secret.",
            ),
            Self::StaleDelivery => {
                f.write_str("X-MLflow-Timestamp is more than five minutes from this Envoy's clock: compare the clocks.")
            }
            Self::ReplayedDelivery => f.write_str(
                "This X-MLflow-Delivery-Id was taken before, and the registry was asked then: send a new delivery.",
            ),
            Self::StoreUnavailable => ChangeError::StoreUnavailable.fmt(f),
            Self::NotReady(names) => {
                let shown: Vec<&str> = names.iter().take(MOST_NAMES).map(DeploymentName::as_str).collect();
                let more = match names.len().saturating_sub(shown.len()) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                write!(
                    f,
                    "The state of {}{more} has not come from the fleet's store yet. If this lasts, see in Envoy's log why not.",
                    shown.join(", ")
                )
            }
        }
    }
}

impl std::error::Error for Problem {}

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.char_indices().nth(Self::MOST).map(|(end, _)| end);
        match end.and_then(|end| self.0.get(..end)) {
            Some(beginning) => write!(f, "{beginning:?}…"),
            None => write!(f, "{:?}", self.0),
        }
    }
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut letters = self.0.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        let end = if self.0.ends_with('.') { "" } else { "." };
        write!(f, "{}{}{end}", first.unwrap_or_default(), letters.as_str())
    }
}

impl Shortened<'_> {
    /// In characters. Names and paths that mean something are shorter.
    const MOST: usize = 200;
}

/// Of something long, which is shown to the one who sent it, as much as is of use.
pub fn beginning(text: &[u8]) -> String {
    String::from_utf8_lossy(text.get(..MOST_SHOWN).unwrap_or(text)).into_owned()
}

const fn kind_of_refusal(refusal: Refusal) -> (u32, &'static str, &'static str) {
    match refusal {
        Refusal::NothingToRollBackTo | Refusal::NotTheWayBack(_) => (409, refusal.problem(), "Nothing to roll back to"),
        Refusal::Rollout(rollout::Refusal::UnderWay) => (409, refusal.problem(), "Rollout under way"),
        Refusal::Rollout(rollout::Refusal::NoRollout) => (409, refusal.problem(), "No such rollout"),
        Refusal::Rollout(rollout::Refusal::Moved) => (409, refusal.problem(), "Rollout moved on"),
        Refusal::NothingToPromote(_) => (409, refusal.problem(), "Nothing to promote"),
        Refusal::CandidateChanged => (409, refusal.problem(), "State kept changing"),
    }
}

#[cfg(test)]
impl Problem {
    /// Each kind once. A new one does not compile before it stands here.
    pub fn samples() -> Vec<Self> {
        let text = || "x".to_owned();
        let after = |problem: &Self| {
            Some(match problem {
                Self::MalformedPath(_) => Self::MalformedQuery(text()),
                Self::MalformedQuery(_) => Self::MalformedIfMatch(text()),
                Self::MalformedIfMatch(_) => Self::DuplicateParameter(text()),
                Self::DuplicateParameter(_) => Self::UnknownParameter { name: text(), known: &["to"] },
                Self::UnknownParameter { .. } => Self::MissingParameter("colour"),
                Self::MissingParameter(_) => Self::InvalidJson(text()),
                Self::InvalidJson(_) => Self::Busy,
                Self::Busy => Self::TooManyGuesses,
                Self::TooManyGuesses => Self::CrossOrigin(text()),
                Self::CrossOrigin(_) => Self::ForeignHost(text()),
                Self::ForeignHost(_) => Self::OpenElsewhere(text()),
                Self::OpenElsewhere(_) => Self::BodyMissing,
                Self::BodyMissing => Self::BodyTooLarge,
                Self::BodyTooLarge => Self::Unauthenticated { presented: false },
                Self::Unauthenticated { presented: false } => Self::Unauthenticated { presented: true },
                Self::Unauthenticated { presented: true } => Self::Forbidden { name: text() },
                Self::Forbidden { .. } => Self::UnknownPath(text()),
                Self::UnknownPath(_) => Self::UnknownDeployment(crate::testing::iris()),
                Self::UnknownDeployment(_) => Self::MethodNotAllowed { method: text(), allow: text() },
                Self::MethodNotAllowed { .. } => Self::Refused(Refusal::CandidateChanged),
                Self::Refused(refusal) => match after_refusal(*refusal) {
                    Some(refusal) => Self::Refused(refusal),
                    None => Self::Change(ChangeError::StoreUnavailable),
                },
                Self::Change(error) => match after_change(error) {
                    Some(error) => Self::Change(error),
                    None => Self::NoComparison,
                },
                Self::NoComparison => Self::NoSmokeTest,
                Self::NoSmokeTest => Self::NothingToTest(Colour::Blue),
                Self::NothingToTest(_) => Self::NoRolloutPlan,
                Self::NoRolloutPlan => Self::NotDrained { colour: Colour::Blue, blockers: text() },
                Self::NotDrained { .. } => Self::InvalidValue { name: "Name".to_owned(), problem: text() },
                Self::InvalidValue { .. } => Self::EmptyPatch,
                Self::EmptyPatch => Self::NoWebhook,
                Self::NoWebhook => Self::WebhookSecretMissing(HeaderName::literal("x-secret")),
                Self::WebhookSecretMissing(_) => Self::BadSignature,
                Self::BadSignature => Self::StaleDelivery,
                Self::StaleDelivery => Self::ReplayedDelivery,
                Self::ReplayedDelivery => Self::StoreUnavailable,
                Self::StoreUnavailable => Self::NotReady(vec![crate::testing::iris()]),
                Self::NotReady(_) => return None,
            })
        };
        std::iter::successors(Some(Self::MalformedPath("x")), after).collect()
    }
}

#[cfg(test)]
fn after_refusal(refusal: Refusal) -> Option<Refusal> {
    Some(match refusal {
        Refusal::CandidateChanged => Refusal::NothingToRollBackTo,
        Refusal::NothingToRollBackTo => Refusal::NotTheWayBack(Colour::Blue),
        Refusal::NotTheWayBack(_) => Refusal::NothingToPromote(Colour::Blue),
        Refusal::NothingToPromote(_) => Refusal::Rollout(rollout::Refusal::UnderWay),
        Refusal::Rollout(rollout::Refusal::UnderWay) => Refusal::Rollout(rollout::Refusal::NoRollout),
        Refusal::Rollout(rollout::Refusal::NoRollout) => Refusal::Rollout(rollout::Refusal::Moved),
        Refusal::Rollout(rollout::Refusal::Moved) => return None,
    })
}

#[cfg(test)]
fn after_change(error: &ChangeError) -> Option<ChangeError> {
    use crate::fleet::transaction::NotCommitted;
    use crate::model::time::Timestamp;
    use crate::readiness::gate::Missing;
    use crate::state::State;
    use crate::testing::{identity, split};

    let (colour, detail) = (Colour::Blue, "x".to_owned());
    let identity = || Box::new(identity("2"));
    let rejection = match error {
        ChangeError::StoreUnavailable => {
            return Some(ChangeError::FleetUnavailable { called: "etcd", why: NotCommitted::Late });
        }
        ChangeError::FleetUnavailable { .. } => return Some(ChangeError::OutcomeUnknown { called: "etcd" }),
        ChangeError::OutcomeUnknown { .. } => Rejection::Superseded,
        ChangeError::Rejected(Rejection::Superseded, _) => Rejection::Refused(Refusal::CandidateChanged),
        ChangeError::Rejected(Rejection::Refused(_), _) => {
            Rejection::Untested { colour, identity: identity(), missing: Missing::NeverPassed, waits: false }
        }
        ChangeError::Rejected(Rejection::Untested { .. }, _) => Rejection::NotRouted { colour, detail },
        ChangeError::Rejected(Rejection::NotRouted { .. }, _) => {
            Rejection::Unhealthy { colour, identity: identity(), detail }
        }
        ChangeError::Rejected(Rejection::Unhealthy { .. }, _) => Rejection::Unproven { colour, identity: identity() },
        ChangeError::Rejected(Rejection::Unproven { .. }, _) => return None,
    };
    let state = State::initial(split("blue", "0", "0"), Timestamp::from_millis(0));
    Some(ChangeError::Rejected(rejection, Box::new(state)))
}
