//! A registry whose marks are moved, and what follows.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::change::request::{Checks, Precondition};
use crate::config::Config;
use crate::deployment::Deployments;
use crate::store::source_status::ChangeOutcome;
use crate::testing::{MemoryStore, iris, percent, split};

const NOW: Timestamp = Timestamp::from_millis(1_795_446_000_000);

/// A registry as a test moves its marks, a deployment that follows it, and what is kept.
struct Scene {
    deployments: Deployments,
    store: MemoryStore,
    state: State,
    marks: Vec<(&'static str, &'static str)>,
}

impl Scene {
    fn new(sections: &str) -> Self {
        Self::following(&format!(
            r#""follow": {{"alias": "production"}}, "colours": {{"blue": {{"alias": "blue"}}, "green": {{"alias": "green"}}}} {sections}"#
        ))
    }

    fn following(fields: &str) -> Self {
        let json = format!(
            r#"{{"deployments": {{"iris": {{"colours": {{
                "blue": {{"cluster": "b", "version": "1"}}, "green": {{"cluster": "g", "version": "2"}}}},
                "mlflow": {{"cluster": "mlflow", "model": "my model", {fields}}}}}}}}}"#
        );
        let config = Config::from_bytes(json.as_bytes()).expect("valid");
        Self {
            deployments: Deployments::new(&config),
            store: MemoryStore::default(),
            state: State::initial(split("blue", "0", "0"), NOW),
            marks: vec![("blue", "1"), ("green", "2"), ("production", "1")],
        }
    }

    fn mlflow(&self) -> &Mlflow {
        self.deployments.all()[0].mlflow.as_ref().expect("configured")
    }

    fn set(&mut self, alias: &'static str, version: &'static str) {
        self.marks.retain(|(known, _)| *known != alias);
        if !version.is_empty() {
            self.marks.push((alias, version));
        }
    }

    fn reply(&self) -> HttpReply {
        let alias = |(alias, version): &(&str, &str)| serde_json::json!({"alias": alias, "version": version});
        let aliases: Vec<Value> = self.marks.iter().map(alias).collect();
        answered(200, &serde_json::json!({"registered_model": {"name": "my model", "aliases": aliases}}).to_string())
    }

    /// One poll: the change that it leads to.
    fn poll(&mut self) -> Option<ChangeRequest> {
        let reading = self.mlflow().reading(&self.reply()).expect("readable");
        let mut request = None;
        source_status::record(&self.store, &iris(), Source::Mlflow, &mut |before| {
            let (after, requested) = self.mlflow().follow(0, before.as_ref(), reading.clone(), &self.state, NOW);
            request = requested;
            Some(after)
        });
        request
    }

    /// A poll whose change is made: the split after it.
    fn obey(&mut self) -> crate::model::split::Split {
        if let Some(request) = self.poll() {
            assert_eq!(request.precondition, Precondition::Revisions(vec![self.state.revision]));
            self.change(request.command, Source::Mlflow);
            self.acknowledge(ChangeOutcome::Applied);
        }
        self.state.split
    }

    fn acknowledge(&self, outcome: ChangeOutcome) {
        source_status::acknowledge(&self.store, &iris(), Source::Mlflow, &outcome, NOW);
    }

    fn change(&mut self, command: Command, source: Source) {
        let author = Author::new(crate::testing::holder("x"), source, Reason::none());
        self.state = self.state.after(&command, author, NOW).expect("allowed").expect("a change");
    }

    fn status(&self) -> SourceStatus {
        source_status::read(&self.store, &iris(), Source::Mlflow).expect("kept")
    }

    fn refusal(&self) -> String {
        self.status().refusal.unwrap_or_default()
    }
}

fn answered(status: u16, body: &str) -> HttpReply {
    HttpReply::Answered { status, body: body.as_bytes().to_vec() }
}

fn command(request: Option<ChangeRequest>) -> Option<Command> {
    request.map(|request| request.command)
}

#[test]
fn the_models_name_is_encoded_and_the_registry_gets_a_host_that_it_knows() {
    let request = Scene::new("").mlflow().request();
    assert!(
        request
            .headers
            .contains(&(":path".to_owned(), "/api/2.0/mlflow/registered-models/get?name=my%20model".to_owned()))
    );
    assert!(request.headers.contains(&(":authority".to_owned(), "localhost".to_owned())));
}

#[test]
fn a_registry_under_a_path_prefix_is_asked_there() {
    for (prefix, expected) in [("/", ""), ("/mlflow", "/mlflow"), ("/ml/flow/", "/ml/flow")] {
        let scene = Scene::new(&format!(r#", "path_prefix": "{prefix}""#));
        let path = format!("{expected}/api/2.0/mlflow/registered-models/get?name=my%20model");
        assert!(scene.mlflow().request().headers.contains(&(":path".to_owned(), path)), "{prefix}");
    }
}

#[test]
fn a_moved_alias_promotes_and_moving_it_back_rolls_back() {
    let mut scene = Scene::new("");
    assert_eq!(scene.obey(), split("blue", "0", "0"));
    scene.set("production", "2");
    let request = scene.poll().expect("a request");
    assert_eq!((request.command, request.checks), (Command::Promote(Some(Colour::Green)), Checks::Enforce));
    assert_eq!(request.author.reason.as_str(), "version 1 -> 2: alias production was moved");
    assert_eq!(scene.obey(), split("green", "0", "0"));
    scene.set("production", "1");
    assert_eq!(command(scene.poll()), Some(Command::RollBack(None)));
    assert_eq!(scene.obey(), split("blue", "0", "0"));
    scene.set("production", "2");
    assert_eq!(scene.obey(), split("green", "0", "0"));
}

#[test]
fn a_new_version_on_the_colour_that_was_left_is_no_rollback() {
    let mut scene = Scene::new("");
    scene.set("production", "2");
    scene.obey();
    scene.set("blue", "3");
    scene.obey();
    scene.set("production", "3");
    assert_eq!(command(scene.poll()), Some(Command::Promote(Some(Colour::Blue))));
}

#[test]
fn a_stage_is_followed_by_the_newest_version_in_it() {
    let scene = Scene::following(
        r#""follow": {"stage": "Production"}, "colours": {"blue": {"version": "1"}, "green": {"version": "2"}}"#,
    );
    let body = r#"{"registered_model": {"name": "my model", "latest_versions": [
        {"version": "3", "current_stage": "None"}, {"version": "2", "current_stage": "Production"}]}}"#;
    let reading = scene.mlflow().reading(&answered(200, body)).expect("readable");
    assert_eq!(reading.followed, RegisteredVersion::new("2").ok());
    assert_eq!(reading.colours.blue, RegisteredVersion::new("1").ok());
    let (_, request) = scene.mlflow().follow(0, None, reading, &scene.state, NOW);
    assert_eq!(command(request), Some(Command::Promote(Some(Colour::Green))));
}

#[test]
fn an_alias_that_stays_where_it_is_leaves_an_operators_switch_alone() {
    let mut scene = Scene::new("");
    scene.set("production", "2");
    scene.obey();
    scene.change(Command::RollBack(None), Source::Admin);
    assert_eq!(scene.poll(), None);
    scene.set("blue", "3");
    assert_eq!(scene.poll(), None);
    scene.set("production", "7");
    assert_eq!(scene.poll(), None);
    scene.set("production", "2");
    assert_eq!(scene.obey(), split("green", "0", "0"));
}

#[test]
fn what_names_neither_colour_or_both_or_nothing_moves_nothing_and_says_so() {
    let neither = "the followed alias production names version 7, which is neither blue (1) nor green (2)";
    let cases = [
        ("production", "7", neither),
        ("production", "", "no version has the followed alias production"),
        ("blue", "2", "no version has"),
        ("production", "2", "names version 2, which is both blue and green"),
        ("green", "", "both"),
    ];
    let mut scene = Scene::new("");
    for (alias, version, words) in &cases[..4] {
        scene.set(alias, version);
        assert_eq!(scene.poll(), None, "{words}");
        assert!(scene.refusal().contains(words), "{words}: {}", scene.refusal());
    }
    scene.set("blue", "");
    assert_eq!(command(scene.poll()), Some(Command::Promote(Some(Colour::Green))));
    assert_eq!(scene.refusal(), "");
    scene.set("green", "");
    scene.poll();
    assert!(scene.refusal().ends_with("neither blue (none) nor green (none)"), "{}", scene.refusal());
}

#[test]
fn a_mark_acts_once_as_soon_as_it_names_a_colour() {
    let mut scene = Scene::new("");
    scene.set("production", "3");
    assert_eq!(scene.poll(), None);
    scene.set("green", "3");
    assert_eq!(scene.obey(), split("green", "0", "0"));
    scene.change(Command::RollBack(None), Source::Admin);
    assert_eq!(scene.poll(), None);
}

#[test]
fn with_a_canary_configured_a_move_begins_it_and_moving_back_ends_it() {
    let mut scene = Scene::new(r#", "canary_percent": 10"#);
    scene.obey();
    scene.set("production", "2");
    assert_eq!(scene.obey(), split("blue", "10", "0"));
    assert_eq!(scene.poll(), None);
    let grown = Patch { canary_percent: Some(percent("50")), ..Patch::default() };
    scene.change(Command::Patch(grown), Source::Admin);
    scene.set("production", "1");
    assert_eq!(scene.obey(), split("blue", "0", "0"));
    scene.set("production", "2");
    scene.obey();
    scene.change(Command::Promote(Some(Colour::Green)), Source::Admin);
    assert_eq!(scene.poll(), None);
    // All the way back at once: only the way forward is made in steps.
    scene.set("production", "1");
    assert_eq!(scene.obey(), split("blue", "0", "0"));
}

#[test]
fn a_share_that_was_kept_after_the_promotion_is_no_canary_of_the_registrys() {
    let keep = crate::state::kept::Keep { share: percent("2"), r#for: std::time::Duration::from_secs(60) };
    let mut scene = Scene::new("");
    scene.obey();
    scene.set("production", "2");
    let request = scene.poll().expect("a promotion");
    let promoted = scene.state.after_keeping(Some(keep), &request.command, request.author, NOW);
    scene.state = promoted.expect("allowed").expect("a change");
    // The same wish is still under way when the mark is seen again.
    let stays = Patch { active: Some(Colour::Green), ..Patch::default() };
    assert_eq!(command(scene.poll()), Some(Command::Patch(stays)));
    scene.acknowledge(ChangeOutcome::Applied);
    assert_eq!(scene.obey(), split("green", "2", "0"));
    scene.set("production", "1");
    assert_eq!(scene.obey(), split("blue", "0", "0"));
}

#[test]
fn a_canary_that_the_mark_has_nothing_to_do_with_goes_on() {
    let mut scene = Scene::new(r#", "canary_percent": 10"#);
    let canary = Patch { canary_percent: Some(percent("5")), ..Patch::default() };
    scene.change(Command::Patch(canary), Source::Admin);
    for version in ["1", "7", "1", "2"] {
        scene.set("production", version);
        assert_eq!(scene.poll(), None, "{version}");
    }
}

#[test]
fn a_refused_wish_is_repeated_until_somebody_else_changes_the_state_or_the_mark_moves() {
    let mut scene = Scene::new("");
    scene.set("production", "2");
    let first = scene.poll();
    scene.acknowledge(ChangeOutcome::Rejected("answered 500".to_owned()));
    assert_eq!(scene.poll(), first);
    assert_eq!(scene.refusal(), "answered 500");
    scene.acknowledge(ChangeOutcome::Superseded);
    assert_eq!(scene.poll(), None);
    scene.set("production", "1");
    assert_eq!(scene.poll(), None);
    assert_eq!(scene.refusal(), "");
}

#[test]
fn a_delivery_hurries_the_registry_once() {
    let scene = Scene::new(r#", "webhook": {}"#);
    let registry = Registry::new(0, scene.mlflow().clone());
    let wants_poll_now = || registry.wants_poll_now(&scene.deployments, &scene.store);
    assert!(!wants_poll_now());
    trigger(&scene.store, &iris(), b"a").expect("in reach");
    assert!(wants_poll_now());
    assert!(!wants_poll_now());
    trigger(&scene.store, &iris(), b"b").expect("in reach");
    assert!(wants_poll_now());
}

#[test]
fn what_an_operator_has_to_know_is_news_once() {
    let mut scene = Scene::new("");
    let registry = Registry::new(0, scene.mlflow().clone());
    let news = |scene: &Scene, reply: &HttpReply| {
        let result = registry.on_reply(reply, &scene.deployments, &scene.store, NOW);
        result.warnings
    };
    assert_eq!(news(&scene, &scene.reply()), Vec::<String>::new());
    scene.set("production", "7");
    let lines = news(&scene, &scene.reply());
    assert!(lines[0].starts_with("deployment=iris: the followed alias production names version 7"), "{lines:?}");
    assert_eq!(lines.len(), 1);
    assert_eq!(news(&scene, &scene.reply()), Vec::<String>::new());
    let lines = news(&scene, &HttpReply::Broken);
    assert_eq!(
        lines,
        [
            "deployment=iris: the registry does not answer, traffic stays as it is: the connection broke before an answer"
        ]
    );
    assert_eq!(news(&scene, &HttpReply::Broken), Vec::<String>::new());
}

#[test]
fn a_change_under_way_is_given_up_when_the_mark_moves_on() {
    let stay = Command::Patch(Patch { active: Some(Colour::Blue), ..Patch::default() });
    for elsewhere in ["1", "7", ""] {
        let mut scene = Scene::new("");
        scene.obey();
        scene.set("production", "2");
        let promote = scene.poll().expect("a request");
        scene.set("production", elsewhere);
        let instead = scene.poll().expect("a request");
        assert_eq!(instead.command, stay, "{elsewhere}");
        assert!(instead.supersedes(&promote));
        scene.acknowledge(ChangeOutcome::Applied);
        assert_eq!(scene.poll(), None);
    }
}

#[test]
fn the_first_sight_acts_and_another_mark_to_follow_is_a_first_sight() {
    let mut scene = Scene::new("");
    scene.set("production", "2");
    assert_eq!(command(scene.poll()), Some(Command::Promote(Some(Colour::Green))));
    scene.change(Command::Promote(Some(Colour::Green)), Source::Mlflow);
    scene.acknowledge(ChangeOutcome::Applied);
    scene.change(Command::RollBack(None), Source::Admin);
    let other = Scene::following(
        r#""follow": {"alias": "champion"}, "colours": {"blue": {"alias": "blue"}, "green": {"alias": "green"}}"#,
    );
    scene.deployments = other.deployments;
    scene.set("champion", "2");
    assert_eq!(command(scene.poll()), Some(Command::Promote(Some(Colour::Green))));
}

#[test]
fn a_registry_that_is_away_is_told_with_the_time_since_which_and_the_mark_is_kept() {
    let mut scene = Scene::new("");
    scene.set("production", "2");
    scene.obey();
    let later = NOW.plus(Duration::from_secs(60));
    let replies = [
        (answered(503, "no healthy upstream"), "answered 503: no healthy upstream"),
        (answered(404, r#"{"error_code": "RESOURCE_DOES_NOT_EXIST"}"#), "answered 404"),
        (answered(200, "<html>"), "but not with a registered model"),
        (HttpReply::Broken, "the connection broke"),
    ];
    let mut known = scene.status();
    for (reply, words) in replies {
        let why = scene.mlflow().reading(&reply).expect_err(words);
        known = away(Some(&known), &why, if known.error.is_none() { NOW } else { later });
        let error = known.error.clone().expect("away");
        assert!(error.starts_with("away since 2026-11-23T15:00:00.000Z: "), "{error}");
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(known.value, scene.status().value);
    let reading = scene.mlflow().reading(&scene.reply()).expect("back");
    let (back, request) = scene.mlflow().follow(0, Some(&known), reading, &scene.state, later);
    assert_eq!((back, request), (scene.status(), None));
}

#[test]
fn a_colours_alias_that_was_moved_makes_another_version_of_what_is_behind_it_before_all_else() {
    let mut scene = Scene::new("");
    let registry = Registry::new(0, scene.mlflow().clone());
    let poll = |scene: &Scene| registry.on_reply(&scene.reply(), &scene.deployments, &scene.store, NOW);
    scene.set("production", "2");
    scene.set("green", "3");
    scene.set("blue", "");
    let result = poll(&scene);
    let [request] = &result.versions[..] else { panic!("{result:?}") };
    assert_eq!(request.command, Command::FollowVersion(Colour::Green, Version::new("3").expect("valid")));
    assert_eq!((request.source(), request.precondition.clone()), (Source::Mlflow, Precondition::Any));
    assert_eq!(request.author.reason.as_str(), "version 2 -> 3: the alias green is on it");
    assert_eq!((result.changes, source_status::read(&scene.store, &iris(), Source::Mlflow)), (vec![], None));
    assert_eq!(registered_version(&scene.store, &scene.deployments.all()[0], Colour::Green), None);

    scene.set("green", "2");
    let result = poll(&scene);
    assert_eq!(
        (result.versions, command(result.changes.into_iter().next())),
        (vec![], Some(Command::Promote(Some(Colour::Green))))
    );
    let registered = |colour| registered_version(&scene.store, &scene.deployments.all()[0], colour);
    assert_eq!(registered(Colour::Green).expect("known").as_str(), "2");
    assert_eq!(registered(Colour::Blue), None);
}

#[test]
fn a_colour_that_the_configuration_gives_a_number_is_the_version_of_the_configuration() {
    let fixed = Scene::following(
        r#""follow": {"alias": "production"}, "colours": {"blue": {"version": "8"}, "green": {"version": "9"}}"#,
    );
    let registry = Registry::new(0, fixed.mlflow().clone());
    assert_eq!(registry.on_reply(&fixed.reply(), &fixed.deployments, &fixed.store, NOW).versions, vec![]);
}
