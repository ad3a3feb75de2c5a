//! Which clusters this Envoy was seen to have, and which it lacks: whatever is sent to one of those is answered 503.

use crate::deployment::Deployment;
use crate::host::Host;
use crate::model::name::ClusterName;
use crate::setup::{self, SetupProblem};
use crate::store::key::Key;
use crate::store::{Store, update};

/// What was seen of the clusters of one deployment.
type Sightings = Vec<Sighting>;

/// One cluster. Kept as a line of three words, since a name has no white space.
#[derive(Clone, PartialEq, Eq)]
struct Sighting {
    field: String,
    cluster: ClusterName,
    is_there: bool,
}

/// Takes note whether a cluster is there, which `field` of the deployment's configuration names.
pub fn saw(host: &dyn Host, deployment: &Deployment, field: &str, cluster: &ClusterName, is_there: bool) {
    change(host, deployment, &|sightings| {
        let now = Sighting { field: field.to_owned(), cluster: cluster.clone(), is_there };
        match sightings.iter_mut().find(|known| known.field == field) {
            Some(known) => *known = now,
            None => sightings.push(now),
        }
    });
}

/// Forgets the fields that a configuration does not have.
pub fn keep_only(host: &dyn Host, deployment: &Deployment, fields: &[&str]) {
    change(host, deployment, &|sightings| {
        sightings.retain(|known| fields.contains(&known.field.as_str()));
    });
}

/// Whether a cluster was seen to be there.
pub fn is_there(store: &dyn Store, deployment: &Deployment, field: &str, cluster: &ClusterName) -> bool {
    let known = store.read(&key(deployment)).map(|stored| decode(stored.value)).unwrap_or_default();
    known.iter().any(|known| known.is_there && known.field == field && known.cluster == *cluster)
}

fn change(host: &dyn Host, deployment: &Deployment, change: &dyn Fn(&mut Sightings)) {
    let mut missing = None;
    let written = update(host.store(), &key(deployment), &mut |known| {
        let before = decode(known.value);
        let mut after = before.clone();
        change(&mut after);
        missing = Some(listed(&after)).filter(|missing| *missing != listed(&before));
        (after != before).then(|| encode(&after))
    });
    match missing.filter(|_| written == Ok(true)) {
        Some(missing) if missing.is_empty() => setup::clear(host, deployment, SetupProblem::ClusterUnknown),
        Some(missing) => {
            let detail = format!(
                "this Envoy has no cluster of this name: {missing}. Requests to it are answered 503: correct the name, or add \
                 the cluster"
            );
            setup::note(host, deployment, SetupProblem::ClusterUnknown, detail);
        }
        None => {}
    }
}

/// Those that are missing, in words.
fn listed(sightings: &Sightings) -> String {
    let mut text = String::new();
    for known in sightings.iter().filter(|known| !known.is_there) {
        let comma = if text.is_empty() { "" } else { ", " };
        text.push_str(&format!("{comma}{} {:?}", known.field, known.cluster.as_str()));
    }
    text
}

fn encode(sightings: &Sightings) -> Vec<u8> {
    let mut text = String::new();
    for Sighting { field, cluster, is_there } in sightings {
        text.push_str(&format!("{field} {cluster} {is_there}\n"));
    }
    text.into_bytes()
}

fn decode(value: Option<Vec<u8>>) -> Sightings {
    let read = |line: &str| {
        let mut words = line.split(' ');
        let (field, cluster, is_there) = (words.next()?, words.next()?, words.next()?);
        Some(Sighting {
            field: field.to_owned(),
            cluster: ClusterName::new(cluster).ok()?,
            is_there: is_there == "true",
        })
    };
    String::from_utf8_lossy(&value.unwrap_or_default()).lines().filter_map(read).collect()
}

fn key(deployment: &Deployment) -> String {
    Key::Clusters(&deployment.name).to_string()
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::setup::noted;
    use crate::testing::{context_of, iris};

    #[test]
    fn all_that_are_missing_are_shown_until_the_last_one_is_there() {
        let (host, context) = context_of("");
        let deployment = &context.deployments.all()[0];
        let gren = ClusterName::new("gren").expect("valid");
        let detail = || noted(&host.store, &iris()).remove(&SetupProblem::ClusterUnknown).map(|noted| noted.detail);
        let (blue, green) = ("colours.blue.cluster", "colours.green.cluster");
        saw(&*host, deployment, green, &gren, false);
        saw(&*host, deployment, blue, &gren, false);
        let seen = detail().expect("noted");
        assert!(seen.contains(r#"colours.green.cluster "gren", colours.blue.cluster "gren""#), "{seen}");
        saw(&*host, deployment, blue, &gren, true);
        assert!(is_there(&host.store, deployment, blue, &gren) && !is_there(&host.store, deployment, green, &gren));
        assert!(detail().is_some_and(|detail| !detail.contains("blue")));
        // Another configuration has no such field any more.
        keep_only(&*host, deployment, &[blue]);
        assert_eq!(detail(), None);
    }
}
