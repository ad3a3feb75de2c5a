//! A state from the store, and what commands make of it.

#![no_main]

use bluegreen_core::config::Config;
use bluegreen_core::model::author::{Author, Source};
use bluegreen_core::model::colour::Colour;
use bluegreen_core::model::identity::Identity;
use bluegreen_core::model::name::{DeploymentName, HolderName, Reason};
use bluegreen_core::model::percent::Percent;
use bluegreen_core::model::split::Split;
use bluegreen_core::model::time::Timestamp;
use bluegreen_core::state::history::History;
use bluegreen_core::state::rollout::RolloutCommand;
use bluegreen_core::state::{Command, Patch, SmokeTestOutcome, State};
use bluegreen_core::store::Store;
use bluegreen_core::store::record::{self, ModRevision, Origin, ReplacePolicy};
use bluegreen_core::testing::{MemoryStore, config_of};
use bluegreen_fuzz::script::parts;
use bluegreen_fuzz::work::bounded;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static CONFIG: LazyLock<Config> = LazyLock::new(|| config_of(""));

fuzz_target!(|input: &[u8]| bounded(input, 32 << 20, 64 << 10, || run(input)));

fn run(input: &[u8]) {
    let parts = parts(input);
    let name = DeploymentName::new("iris").expect("valid");
    let (store, now) = (MemoryStore::default(), Timestamp::from_millis(1_795_446_000_000));
    store.put("bluegreen/v1/iris", parts[0]);
    let loaded = record::load(&store, &name, Split::default(), now).expect("in reach");
    let Some(mut state) = State::decode(parts[0]) else { return };
    assert_eq!((loaded.origin, &loaded.state), (Origin::Primary, &state));
    assert_eq!(State::decode(&state.encode()).as_ref(), Some(&state));
    let identities = CONFIG.deployments["iris"].colours.clone();
    for part in parts.iter().skip(1) {
        for bytes in part.chunks(4).take(64) {
            let command = command(bytes, &identities.blue, &identities.green);
            let alice = HolderName::new("alice").expect("valid");
            let author = Author::new(alice, Source::Admin, Reason::none());
            let Ok(Some(after)) = state.after(&command, author, now) else { continue };
            assert!(after.revision >= state.revision, "{command:?}");
            assert!(after.history.changes().count() <= History::LIMIT, "{command:?}");
            assert_eq!(State::decode(&after.encode()).as_ref(), Some(&after), "{command:?}");
            if after.split != state.split {
                assert!(after.revision > state.revision || state.revision == highest(), "{command:?}");
            }
            state = after;
        }
    }
    let number = ModRevision(u64::from(parts.last().and_then(|part| part.last()).copied().unwrap_or(1)));
    record::replace(&store, &name, &state, number, ReplacePolicy::Always).expect("in reach");
    let loaded = record::load(&store, &name, Split::default(), now).expect("in reach");
    assert_eq!((loaded.state, loaded.mod_revision), (state.clone(), Some(number)));
    // Somebody writes over it: it is known from its backup.
    store.put("bluegreen/v1/iris", b"not ours");
    let loaded = record::load(&store, &name, Split::default(), now).expect("in reach");
    assert_eq!((loaded.origin, loaded.state), (Origin::Backup, state));
    assert!(store.read("bluegreen/v1/iris/copy").is_ok());
}

fn highest() -> bluegreen_core::model::split::Revision {
    bluegreen_core::model::split::Revision::new(u64::MAX)
}

fn command(bytes: &[u8], blue: &Identity, green: &Identity) -> Command {
    let byte = |place: usize| bytes.get(place).copied().unwrap_or_default();
    let colour = Colour::ALL[usize::from(byte(1) & 1)];
    let share = Percent::from_hundredths(u16::from_be_bytes([byte(2), byte(3)]) % 10_001);
    let identity = if byte(2) & 1 == 0 { blue } else { green };
    let given = |bit: u8| byte(1) & bit != 0;
    match byte(0) % 14 {
        0 => Command::Promote(None),
        1 => Command::Promote(Some(colour)),
        2 => Command::RollBack(None),
        3 => Command::RollBack(Some(colour)),
        4 => Command::StartOn(colour),
        5 => Command::AdoptVersion(colour, identity.clone()),
        6 => Command::FollowVersion(colour, identity.version.clone()),
        7 => Command::Patch(Patch {
            active: given(2).then_some(colour),
            canary_percent: share.filter(|_| given(4)),
            shadow_percent: share.filter(|_| given(8)),
        }),
        8 => Command::AdoptInitial(Split { active: colour, ..Split::default() }),
        9 => Command::RecordSmokeTest(SmokeTestOutcome { colour, identity: identity.clone(), passed: given(2) }),
        10 => Command::Rollout(RolloutCommand::Pause),
        11 => Command::Rollout(RolloutCommand::Resume),
        12 => Command::Rollout(RolloutCommand::Abort),
        _ => Command::Promote(Some(colour.other())),
    }
}
