//! Every key of the store that an Envoy's workers share.
//!
//! Meshes give all plugins the same namespace, hence the prefix. After it comes the name of the deployment that a key is
//! about, a DNS label, or [`OWN`] for what the filter keeps for itself, which is none.

use std::fmt;

use crate::model::author::Source;
use crate::model::colour::Colour;
use crate::model::name::DeploymentName;

/// What something is kept under. As text it is the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'n> {
    /// A deployment's state.
    State(&'n DeploymentName),
    /// Its backup.
    Backup(&'n DeploymentName),
    /// What the probes of a colour found.
    Probe(&'n DeploymentName, Colour),
    /// What was counted up to a moment, in one of the slots that are used in turn.
    Sample(&'n DeploymentName, u64),
    /// What the worker in a slot says about it.
    Report(&'n DeploymentName, u32),
    /// What was counted by workers that are gone.
    Departed(&'n DeploymentName),
    /// What became of the requests of its canary, by the worker in a slot.
    Cohorts(&'n DeploymentName, u32),
    /// The same by workers that are gone.
    DepartedCohorts(&'n DeploymentName),
    /// What came of comparing its colours' answers, by the worker in a slot.
    Comparisons(&'n DeploymentName, u32),
    /// The same by workers that are gone.
    DepartedComparisons(&'n DeploymentName),
    /// How many requests in a row did not reach its active colour.
    Unreached(&'n DeploymentName),
    /// The analysis of its canary.
    CanaryAnalysis(&'n DeploymentName),
    /// What is wrong around the filter.
    Setup(&'n DeploymentName),
    /// The clusters that were there, and those that were not.
    Clusters(&'n DeploymentName),
    /// That it was looked at when this Envoy started.
    Started(&'n DeploymentName),
    /// What the configuration says is behind its colours.
    Configured(&'n DeploymentName),
    /// The configuration of it that was taken over, of which nothing waits.
    TakenOver(&'n DeploymentName),
    /// What a source was last seen to say.
    SourceStatus(&'n DeploymentName, Source),
    /// The last delivery by which MLflow had its registry asked.
    RegistryTrigger(&'n DeploymentName),
    /// How often a registry was to be asked at once, whichever.
    RegistryTriggers,
    /// The deliveries of MLflow that were taken.
    Deliveries,
    /// A request that no deployment takes was warned of.
    Unmatched,
    /// The number that the last instance has drawn.
    Instances,
    /// Which workers there are.
    Workers,
    /// The last sign of life of the worker in a slot.
    Heartbeat(u32),
    /// The configurations that were in force, and when.
    Configurations,
    /// How many writes the workers were told of.
    Writes,
    /// Who does something for all instances with the same deployments, which this number stands for.
    Lease(u64, LeaseRole),
    /// Until when the last sign of life of the fleet with this number counts.
    Liveness(u64),
    /// The number that this Envoy has drawn in the fleet with this number.
    Envoy(u64),
    /// What receivers have still to be told.
    Notifications,
    /// The tokens of the admin API in the Secret with this number.
    AdminTokens(u64),
}

/// What one instance does for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseRole {
    /// Probes, samples, and takes rollouts and guards further.
    Leader,
    /// Moves what is measured along with a clock that was set.
    ClockSet,
    /// Polls a source.
    Poller(Source),
    /// Follows the fleet with this number.
    Follower(u64),
    /// Sends notifications to the receiver with this number.
    Notifier(u64),
    /// Reads the Secret with this number.
    SecretReader(u64),
}

/// What all keys begin with.
const PREFIX: &str = "bluegreen/v1";

/// Stands where others have the name of a deployment. No name has this letter.
const OWN: &str = "_";

// === impl Key ===

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(name) => write!(f, "{PREFIX}/{name}"),
            Self::Backup(name) => write!(f, "{PREFIX}/{name}/copy"),
            Self::Probe(name, colour) => write!(f, "{PREFIX}/{name}/probe/{colour}"),
            Self::Sample(name, slot) => write!(f, "{PREFIX}/{name}/sample/{slot}"),
            Self::Report(name, slot) => write!(f, "{PREFIX}/{name}/worker/{slot}"),
            Self::Departed(name) => write!(f, "{PREFIX}/{name}/departed"),
            Self::Cohorts(name, slot) => write!(f, "{PREFIX}/{name}/cohorts/{slot}"),
            Self::DepartedCohorts(name) => write!(f, "{PREFIX}/{name}/cohorts/departed"),
            Self::Comparisons(name, slot) => write!(f, "{PREFIX}/{name}/compared/{slot}"),
            Self::DepartedComparisons(name) => write!(f, "{PREFIX}/{name}/compared/departed"),
            Self::Unreached(name) => write!(f, "{PREFIX}/{name}/unreached"),
            Self::CanaryAnalysis(name) => write!(f, "{PREFIX}/{name}/watch"),
            Self::Setup(name) => write!(f, "{PREFIX}/{name}/setup"),
            Self::Clusters(name) => write!(f, "{PREFIX}/{name}/clusters"),
            Self::Started(name) => write!(f, "{PREFIX}/{name}/started"),
            Self::Configured(name) => write!(f, "{PREFIX}/{name}/configured"),
            Self::TakenOver(name) => write!(f, "{PREFIX}/{name}/taken-over"),
            Self::SourceStatus(name, source) => write!(f, "{PREFIX}/{name}/source/{}", source.as_str()),
            Self::RegistryTrigger(name) => write!(f, "{PREFIX}/{name}/mlflow/woken"),
            Self::RegistryTriggers => write!(f, "{PREFIX}/{OWN}/mlflow/woken"),
            Self::Deliveries => write!(f, "{PREFIX}/{OWN}/mlflow/deliveries"),
            Self::Unmatched => write!(f, "{PREFIX}/{OWN}/unmatched"),
            Self::Instances => write!(f, "{PREFIX}/{OWN}/members"),
            Self::Workers => write!(f, "{PREFIX}/{OWN}/workers"),
            Self::Heartbeat(slot) => write!(f, "{PREFIX}/{OWN}/worker/{slot}"),
            Self::Configurations => write!(f, "{PREFIX}/{OWN}/configurations"),
            Self::Writes => write!(f, "{PREFIX}/{OWN}/writes"),
            Self::Lease(deployments, LeaseRole::Leader) => write!(f, "{PREFIX}/{OWN}/lease/{deployments:016x}"),
            Self::Lease(deployments, LeaseRole::ClockSet) => {
                write!(f, "{PREFIX}/{OWN}/lease/{deployments:016x}/clock")
            }
            Self::Lease(deployments, LeaseRole::Poller(source)) => {
                write!(f, "{PREFIX}/{OWN}/lease/{deployments:016x}/source/{}", source.as_str())
            }
            Self::Lease(deployments, LeaseRole::Follower(fleet)) => {
                write!(f, "{PREFIX}/{OWN}/lease/{deployments:016x}/fleet/{fleet:016x}")
            }
            Self::Lease(deployments, LeaseRole::Notifier(receiver)) => {
                write!(f, "{PREFIX}/{OWN}/lease/{deployments:016x}/notify/{receiver:016x}")
            }
            Self::Lease(deployments, LeaseRole::SecretReader(secret)) => {
                write!(f, "{PREFIX}/{OWN}/lease/{deployments:016x}/secret/{secret:016x}")
            }
            Self::Liveness(fleet) => write!(f, "{PREFIX}/{OWN}/fleet/{fleet:016x}"),
            Self::Envoy(fleet) => write!(f, "{PREFIX}/{OWN}/fleet/{fleet:016x}/envoy"),
            Self::Notifications => write!(f, "{PREFIX}/{OWN}/notifications"),
            Self::AdminTokens(secret) => write!(f, "{PREFIX}/{OWN}/tokens/{secret:016x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::testing::iris;

    /// The kinds of keys, one after the other: a new one has its place here.
    fn after<'n>(key: Option<Key<'n>>, name: &'n DeploymentName) -> Option<Key<'n>> {
        Some(match key {
            None => Key::State(name),
            Some(Key::State(_)) => Key::Backup(name),
            Some(Key::Backup(_)) => Key::Probe(name, Colour::Blue),
            Some(Key::Probe(..)) => Key::Sample(name, 0),
            Some(Key::Sample(..)) => Key::Report(name, 0),
            Some(Key::Report(..)) => Key::Departed(name),
            Some(Key::Departed(_)) => Key::Cohorts(name, 0),
            Some(Key::Cohorts(..)) => Key::DepartedCohorts(name),
            Some(Key::DepartedCohorts(_)) => Key::Comparisons(name, 0),
            Some(Key::Comparisons(..)) => Key::DepartedComparisons(name),
            Some(Key::DepartedComparisons(_)) => Key::Unreached(name),
            Some(Key::Unreached(_)) => Key::CanaryAnalysis(name),
            Some(Key::CanaryAnalysis(_)) => Key::Setup(name),
            Some(Key::Setup(_)) => Key::Clusters(name),
            Some(Key::Clusters(_)) => Key::Started(name),
            Some(Key::Started(_)) => Key::Configured(name),
            Some(Key::Configured(_)) => Key::TakenOver(name),
            Some(Key::TakenOver(_)) => Key::SourceStatus(name, Source::Mlflow),
            Some(Key::SourceStatus(..)) => Key::RegistryTrigger(name),
            Some(Key::RegistryTrigger(_)) => Key::RegistryTriggers,
            Some(Key::RegistryTriggers) => Key::Deliveries,
            Some(Key::Deliveries) => Key::Unmatched,
            Some(Key::Unmatched) => Key::Instances,
            Some(Key::Instances) => Key::Workers,
            Some(Key::Workers) => Key::Heartbeat(0),
            Some(Key::Heartbeat(_)) => Key::Configurations,
            Some(Key::Configurations) => Key::Writes,
            Some(Key::Writes) => Key::Lease(0, LeaseRole::Leader),
            Some(Key::Lease(number, LeaseRole::Leader)) => Key::Lease(number, LeaseRole::ClockSet),
            Some(Key::Lease(number, LeaseRole::ClockSet)) => Key::Lease(number, LeaseRole::Poller(Source::Mlflow)),
            Some(Key::Lease(number, LeaseRole::Poller(_))) => Key::Lease(number, LeaseRole::Follower(0)),
            Some(Key::Lease(number, LeaseRole::Follower(_))) => Key::Lease(number, LeaseRole::Notifier(0)),
            Some(Key::Lease(number, LeaseRole::Notifier(_))) => Key::Lease(number, LeaseRole::SecretReader(0)),
            Some(Key::Lease(_, LeaseRole::SecretReader(_))) => Key::Liveness(0),
            Some(Key::Liveness(_)) => Key::Envoy(0),
            Some(Key::Envoy(_)) => Key::Notifications,
            Some(Key::Notifications) => Key::AdminTokens(0),
            Some(Key::AdminTokens(_)) => return None,
        })
    }

    fn keys(name: &DeploymentName) -> Vec<Key<'_>> {
        std::iter::successors(after(None, name), |key| after(Some(*key), name)).collect()
    }

    #[test]
    fn no_two_keys_are_the_same_whatever_the_names_of_the_deployments() {
        // Every word that stands in a key is a deployment's name too, where it can be one.
        let iris = iris();
        let texts: BTreeSet<String> = keys(&iris).iter().map(Key::to_string).collect();
        assert_eq!(texts.len(), keys(&iris).len(), "{texts:#?}");
        let words: BTreeSet<String> = keys(&iris)
            .iter()
            .flat_map(|key| key.to_string().split('/').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let names: BTreeSet<DeploymentName> =
            words.into_iter().filter_map(|word| DeploymentName::new(word).ok()).collect();
        assert!(["members", "lease", "fleet", "mlflow", "probe"].iter().all(|word| names.contains(*word)), "{names:?}");

        let mut seen: BTreeMap<String, Option<&DeploymentName>> = BTreeMap::new();
        for name in &names {
            for text in keys(name).iter().map(Key::to_string) {
                let owner = text.split('/').nth(2);
                assert!(owner == Some(OWN) || owner == Some(name.as_str()), "{text}");
                let owner = (owner != Some(OWN)).then_some(name);
                let other = seen.insert(text.clone(), owner);
                assert!(other.is_none_or(|other| owner.is_none() && other.is_none()), "{text}");
            }
        }
        assert!(DeploymentName::new(OWN).is_err() && DeploymentName::new("a/b").is_err());
    }

    #[test]
    fn a_states_key_is_the_prefix_and_the_name() {
        assert_eq!(Key::State(&iris()).to_string(), "bluegreen/v1/iris");
    }
}
