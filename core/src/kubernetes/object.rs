//! `BlueGreen` objects: what is read of them, and the status that is written.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::fleet::store::Refused;
use crate::json::{self, FromJson};
use crate::model::author::Source;
use crate::model::colour::Colour;
use crate::model::percent::Percent;
use crate::model::split::Split;
use crate::model::time::Timestamp;
use crate::state::State;
use crate::state::rollout::Phase;
use crate::store::record::ModRevision;

/// The API group and version of the objects.
pub const API_VERSION: &str = "bluegreen.dev/v1alpha1";
/// Their kind.
pub const KIND: &str = "BlueGreen";

/// An object as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its name: the deployment's.
    pub name: String,
    /// Its last write.
    pub mod_revision: ModRevision,
    /// How often its `spec` was changed.
    pub generation: u64,
    /// What it asks for; none where it asks for nothing.
    pub spec: Option<Result<Split, String>>,
    /// What stands where the state belongs.
    pub record: Record,
    /// The conditions that were written last, and a number that goes up with each write of the status.
    conditions: Vec<Condition>,
    write: u64,
}

/// What stands where the state belongs.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Nothing yet.
    Absent,
    /// Something that is no state.
    Foreign,
    /// The state.
    State(Box<State>),
}

/// What is known about one question, as Kubernetes writes it (*API conventions, typical status properties*).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromJson)]
#[serde(rename_all = "camelCase")]
struct Condition {
    r#type: String,
    status: String,
    #[serde(default)]
    observed_generation: u64,
    #[serde(default)]
    last_transition_time: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// A list of objects, or of events about them, has this much of each object.
#[derive(FromJson)]
struct Raw {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Default, FromJson)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    resource_version: String,
    generation: u64,
}

#[derive(Default, FromJson)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    active: Option<Value>,
    canary_percent: Option<Value>,
    shadow_percent: Option<Value>,
}

#[derive(Default, FromJson)]
#[serde(default)]
struct Status {
    state: Option<Value>,
    conditions: Vec<Condition>,
    write: u64,
}

/// A write's number; none where the text is none, which no API server has.
pub fn mod_revision(resource_version: &str) -> Option<ModRevision> {
    resource_version.parse().ok().map(ModRevision)
}

// === impl Object ===

impl Object {
    /// Reads one; none where it is not understood.
    pub fn read(value: &Value) -> Option<Self> {
        let Raw { metadata, spec, status } = json::from_value(value).ok()?;
        let record = match status.state {
            None => Record::Absent,
            Some(state) => json::from_value(&state).map_or(Record::Foreign, |state| Record::State(Box::new(state))),
        };
        Some(Self {
            mod_revision: mod_revision(&metadata.resource_version)?,
            name: metadata.name,
            generation: metadata.generation,
            spec: spec.split(),
            record,
            conditions: status.conditions,
            write: status.write,
        })
    }

    /// What is sent to create one that asks for nothing.
    pub fn to_create(name: &str) -> Value {
        json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": {}})
    }

    /// The state, if there is one.
    pub fn state(&self) -> Option<&State> {
        match &self.record {
            Record::State(state) => Some(state),
            Record::Absent | Record::Foreign => None,
        }
    }

    /// What is sent to replace the status: this state, and what people read of it. A number goes up with each write: the API
    /// server takes a status that says the same as the one before for no write at all.
    pub fn with_status(&self, state: &State, refused: Option<&Refused>, now: Timestamp) -> Value {
        let split = &state.split;
        let version = |colour: Colour| state.identities.get(colour).as_ref().map(|identity| identity.version.as_str());
        let mut status = Map::new();
        let mut set = |name: &str, value: Value| {
            if !value.is_null() {
                status.insert(name.to_owned(), value);
            }
        };
        set("observedGeneration", self.generation.into());
        set("revision", state.revision.get().into());
        set("active", split.active.as_str().into());
        set("version", version(split.active).into());
        set("candidateVersion", version(split.candidate()).into());
        set("canaryPercent", number(split.canary_percent));
        set("shadowPercent", number(split.shadow_percent));
        set("rollout", state.rollout.map(|rollout| rollout.phase.as_str()).into());
        set("changedBy", format!("{} via {}", state.author.by, state.author.source.as_str()).into());
        set("reason", Some(state.author.reason.as_str()).filter(|reason| !reason.is_empty()).into());
        set("since", state.since.to_string().into());
        set("write", self.write.wrapping_add(1).into());
        set("conditions", serde_json::to_value(self.conditions(state, refused, now)).unwrap_or_default());
        set("state", serde_json::to_value(state).unwrap_or_default());
        json!({
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": self.name, "resourceVersion": self.mod_revision.0.to_string()},
            "spec": {},
            "status": status
        })
    }

    /// Whether it shows this refusal, or another one of the same `spec`, already. Which one an Envoy meets first may differ.
    pub fn shows(&self, refused: &Refused) -> bool {
        let accepted = self.conditions.iter().find(|condition| condition.r#type == ACCEPTED);
        accepted
            .is_some_and(|condition| condition.observed_generation == refused.generation && condition.status == "False")
    }

    fn conditions(&self, state: &State, refused: Option<&Refused>, now: Timestamp) -> Vec<Condition> {
        let known = |r#type: &str| self.conditions.iter().find(|condition| condition.r#type == r#type);
        let condition = |r#type: &str, (status, reason, message): (&str, String, String)| Condition {
            r#type: r#type.to_owned(),
            status: status.to_owned(),
            observed_generation: self.generation,
            last_transition_time: known(r#type)
                .filter(|known| known.status == status)
                .map_or_else(|| now.to_string(), |known| known.last_transition_time.clone()),
            reason,
            message,
        };
        let accepted = self.accepted(state, refused).or_else(|| {
            // What was refused stays so, whatever else is written meanwhile.
            let known = known(ACCEPTED).filter(|known| known.observed_generation == self.generation)?;
            (known.status == "False").then(|| ("False", known.reason.clone(), known.message.clone()))
        });
        let pending = || ("Unknown", "Pending".to_owned(), "the Envoys have not looked at this spec yet".to_owned());
        let in_force = self.in_force(state);
        vec![
            condition(ACCEPTED, accepted.unwrap_or_else(pending)),
            condition("Progressing", progressing(state)),
            condition("InForce", in_force),
        ]
    }

    /// What became of the `spec`; none where that is not known.
    fn accepted(&self, state: &State, refused: Option<&Refused>) -> Option<(&'static str, String, String)> {
        let yes = |reason: &str, message: &str| Some(("True", reason.to_owned(), message.to_owned()));
        let no = |reason: &str, message: String| Some(("False", reason.to_owned(), message));
        match &self.spec {
            None => yes("NothingAsked", "spec.active is not set: the traffic is set elsewhere"),
            Some(Err(problem)) => no("Invalid", problem.clone()),
            Some(Ok(split)) => match state.asked.filter(|asked| asked.split == *split) {
                Some(asked) if asked.superseded => no(
                    "Superseded",
                    "another change came before this one could be made: change the spec again to ask for it".to_owned(),
                ),
                Some(_) => yes("Applied", ""),
                None => {
                    let refused = refused.filter(|refused| refused.generation == self.generation)?;
                    no(&camel_case(refused.problem), refused.message.clone())
                }
            },
        }
    }

    /// Whether the traffic is as the `spec` asks.
    fn in_force(&self, state: &State) -> (&'static str, String, String) {
        let Some(Ok(split)) = self.spec else {
            return ("True", "NothingAsked".to_owned(), String::new());
        };
        if state.agrees_with(split) && state.lasting_split() == split {
            return ("True", "AsAsked".to_owned(), String::new());
        }
        let reason = match state.author.source {
            _ if !state.was_asked(split) => "NotAccepted",
            Source::Guard => "RolledBack",
            Source::Failover => "FailedOver",
            Source::Rollout => "RolledOut",
            _ => "ChangedElsewhere",
        };
        let (active, canary) = (state.split.active, state.split.canary_percent);
        let (by, source, why) = (&state.author.by, state.author.source.as_str(), state.author.reason.as_str());
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        let message = format!("{active} is active with {canary} % canary, by {by} via {source}{why}");
        ("False", reason.to_owned(), message)
    }
}

/// The type of the condition that says what became of a `spec`.
const ACCEPTED: &str = "Accepted";

fn progressing(state: &State) -> (&'static str, String, String) {
    let share = state.split.canary_percent;
    let rollout = state.rollout.map(|rollout| rollout.phase);
    match rollout {
        Some(phase @ (Phase::Running | Phase::Paused | Phase::Breached)) => {
            ("True", format!("Rollout{}", camel_case(phase.as_str())), format!("a rollout is at {share} %"))
        }
        _ if state.kept.is_some() => {
            ("True", "KeptShare".to_owned(), format!("the former version keeps {share} % for a while"))
        }
        _ if share > Percent::ZERO => ("True", "Canary".to_owned(), format!("the candidate has {share} %")),
        _ => ("False", "Idle".to_owned(), String::new()),
    }
}

/// A share as a JSON number.
fn number(share: Percent) -> Value {
    json::from_str(&share.to_string()).unwrap_or_default()
}

/// `colour-unhealthy` as `ColourUnhealthy`, which is how Kubernetes writes reasons.
fn camel_case(name: &str) -> String {
    let words = name.split(['-', '_']);
    words.filter_map(|word| Some((word.get(..1)?.to_ascii_uppercase(), word.get(1..)?))).fold(
        String::new(),
        |mut all, (first, rest)| {
            all.push_str(&first);
            all.push_str(rest);
            all
        },
    )
}

// === impl Spec ===

impl Spec {
    /// What it asks for. The schema has refused the most of what is wrong before; a share's decimals it cannot count.
    fn split(self) -> Option<Result<Split, String>> {
        let Self { active, canary_percent, shadow_percent } = self;
        let active = active.filter(|active| !active.is_null())?;
        let mut document = Map::new();
        document.insert("active".to_owned(), active);
        for (name, share) in [("canary_percent", canary_percent), ("shadow_percent", shadow_percent)] {
            if let Some(share) = share.filter(|share| !share.is_null()) {
                document.insert(name.to_owned(), share);
            }
        }
        let read: Result<Split, _> = json::from_value(&Value::Object(document));
        Some(read.map_err(|error| {
            let path =
                error.path().replace("canary_percent", "canaryPercent").replace("shadow_percent", "shadowPercent");
            format!("spec.{path}: {}", error.problem())
        }))
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::author::Author;
    use crate::model::name::Reason;
    use crate::state::{Command, Patch};
    use crate::testing::host::START;
    use crate::testing::split;

    fn object(spec: &str, status: Value) -> Object {
        let spec: Value = json::from_str(spec).expect("JSON");
        let object = json!({"metadata": {"name": "iris", "resourceVersion": "7", "generation": 3}, "spec": spec, "status": status});
        Object::read(&object).expect("an object")
    }

    fn start() -> State {
        State::initial(split("blue", "0", "0"), START)
    }

    fn after(state: &State, command: Command, source: Source) -> State {
        let author = Author::automatic(source, Reason::of("for a reason"));
        state.after(&command, author, START).expect("allowed").expect("a change")
    }

    fn condition(object: &Object, state: &State, refused: Option<&Refused>, r#type: &str) -> (String, String) {
        let written = object.with_status(state, refused, START);
        let conditions: Vec<Condition> = json::from_value(&written["status"]["conditions"]).expect("conditions");
        let one = conditions.into_iter().find(|condition| condition.r#type == r#type).expect("there");
        assert_eq!(one.observed_generation, 3);
        (one.status, one.reason)
    }

    #[test]
    fn a_spec_asks_for_a_split_and_what_it_leaves_out_is_nothing() {
        let asks = |spec: &str| object(spec, json!({})).spec;
        assert_eq!(asks("{}"), None);
        assert_eq!(asks(r#"{"active": null, "canaryPercent": null}"#), None);
        assert_eq!(asks(r#"{"active": "green"}"#), Some(Ok(split("green", "0", "0"))));
        let full = r#"{"active": "green", "canaryPercent": 12.5, "shadowPercent": 1}"#;
        assert_eq!(asks(full), Some(Ok(split("green", "12.5", "1"))));
        let refused = asks(r#"{"active": "green", "canaryPercent": 0.125}"#).expect("asked").expect_err("too fine");
        assert!(refused.starts_with("spec.canaryPercent: ") && refused.contains("two decimals"), "{refused}");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let state = after(&start(), Command::AdoptSpec(split("green", "0", "0")), Source::Kubernetes);
        let object = object(r#"{"active": "green"}"#, json!({}));
        assert_eq!(object.record, Record::Absent);
        let mut written = object.with_status(&state, None, START);
        assert_eq!(written["metadata"]["resourceVersion"], "7");
        assert_eq!(written["status"]["changedBy"], "kubernetes via kubernetes");
        written["metadata"]["resourceVersion"] = "8".into();
        let read = Object::read(&written).expect("an object");
        assert_eq!((read.mod_revision, read.state()), (ModRevision(8), Some(&state)));
        written["status"]["state"] = json!({"edition": "another"});
        assert_eq!(Object::read(&written).expect("an object").record, Record::Foreign);
        written["metadata"]["resourceVersion"] = "a".into();
        assert_eq!(Object::read(&written), None);
    }

    #[test]
    fn the_conditions_say_what_became_of_the_spec() {
        let green = split("green", "0", "0");
        let asked = object(r#"{"active": "green"}"#, json!({}));
        let refused = Refused { generation: 3, problem: "colour-unhealthy", message: "green is down".to_owned() };
        let applied = after(&start(), Command::AdoptSpec(green), Source::Kubernetes);
        let rolled_back = after(&applied, Command::RollBack(None), Source::Guard);
        let passed_over = after(&start(), Command::PassOverSpec(green), Source::Kubernetes);
        let canary = after(
            &applied,
            Command::Patch(Patch { canary_percent: Some("5".parse().expect("a share")), ..Patch::default() }),
            Source::Admin,
        );
        let cases = [
            (&start(), None, ("Unknown", "Pending"), ("False", "NotAccepted"), ("False", "Idle")),
            (&start(), Some(&refused), ("False", "ColourUnhealthy"), ("False", "NotAccepted"), ("False", "Idle")),
            (&applied, None, ("True", "Applied"), ("True", "AsAsked"), ("False", "Idle")),
            (&rolled_back, None, ("True", "Applied"), ("False", "RolledBack"), ("False", "Idle")),
            (&passed_over, None, ("False", "Superseded"), ("False", "ChangedElsewhere"), ("False", "Idle")),
            (&canary, None, ("True", "Applied"), ("False", "ChangedElsewhere"), ("True", "Canary")),
        ];
        for (state, refused, accepted, in_force, progressing) in cases {
            for (r#type, expected) in [("Accepted", accepted), ("InForce", in_force), ("Progressing", progressing)] {
                let expected = (expected.0.to_owned(), expected.1.to_owned());
                assert_eq!(condition(&asked, state, refused, r#type), expected, "{type} of {:?}", state.split);
            }
        }
        let nothing = object("{}", json!({}));
        assert_eq!(condition(&nothing, &start(), None, "Accepted").1, "NothingAsked");
        let invalid = object(r#"{"active": "green", "canaryPercent": 0.001}"#, json!({}));
        assert_eq!(condition(&invalid, &start(), None, "Accepted"), ("False".to_owned(), "Invalid".to_owned()));
    }

    #[test]
    fn a_refusal_stays_until_the_spec_changes_and_a_time_until_the_answer_does() {
        let refused = Refused { generation: 3, problem: "colour-unhealthy", message: "green is down".to_owned() };
        let first = object(r#"{"active": "green"}"#, json!({}));
        assert!(!first.shows(&refused));
        let written = first.with_status(&start(), Some(&refused), START)["status"].clone();
        let second = object(r#"{"active": "green"}"#, written.clone());
        assert!(second.shows(&refused) && second.shows(&Refused { problem: "not-routed", ..refused.clone() }));
        assert!(!second.shows(&Refused { generation: 4, ..refused }));
        let later = START.plus(std::time::Duration::from_secs(9));
        let again = second.with_status(&start(), None, later)["status"].clone();
        assert_eq!(again["conditions"], written["conditions"]);
        assert_ne!(again["write"], written["write"]);
    }
}
