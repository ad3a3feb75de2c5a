//! Answers that are compared. The first section is what a `compare` section says besides `safe`, as JSON; the others are the
//! answers of the active colour, of the candidate, and the second one of the active colour: in their first lines the status and,
//! if there is one, the length of the JSON before a binary part.

#![no_main]

use std::time::Duration;

use bluegreen_core::config::Compare;
use bluegreen_core::json;
use bluegreen_core::shadow::answer::Answer;
use bluegreen_core::shadow::dropped::Dropped;
use bluegreen_core::shadow::findings::Findings;
use bluegreen_core::shadow::record::{Again, Compared, Trial};
use bluegreen_fuzz::script::{parts, split_line};
use bluegreen_fuzz::work::bounded;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|input: &[u8]| {
    let parts = parts(input);
    let mut section = serde_json::from_slice::<Value>(parts[0]).unwrap_or_else(|_| json!({}));
    let Some(members) = section.as_object_mut() else { return };
    members.insert("safe".to_owned(), json!([{"method": "POST", "path_prefix": "/"}]));
    let Ok(rules) = json::from_value::<Compare>(&section) else { return };
    let part = |number: usize| parts.get(number).copied().unwrap_or_default();
    let read = |number: usize| bounded(part(number), 64 << 10, 1 << 10, || answer(part(number), &rules));
    let (Ok(first), Ok(candidate)) = (read(1), read(2)) else { return };
    let second = read(3);

    bounded(input, 1 << 20, 8 << 10, || judge(&first, &candidate, second.as_ref().ok(), &rules));
});

fn answer(part: &[u8], rules: &Compare) -> Result<Answer, Dropped> {
    let (line, body) = split_line(part);
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let status = words.next().and_then(|word| word.parse().ok()).unwrap_or(200);
    let json_length = words.next().and_then(|word| word.parse().ok());
    let strictly = Answer::read(status, body, json_length, rules);
    let read = Answer::read_other(status, body, json_length, rules);
    match &strictly {
        Ok(answer) => assert_eq!(read.as_ref().map(Answer::status), Ok(answer.status())),
        Err(Dropped::NotJson | Dropped::UnknownShape) => assert!(read.is_ok()),
        Err(reason) => assert_eq!(read.as_ref().err(), Some(reason)),
    }
    read
}

fn judge(first: &Answer, candidate: &Answer, second: Option<&Answer>, rules: &Compare) {
    let mut compared = Compared::default();
    // A comparison is symmetric, or the test of the excess is no fair game.
    for (a, b) in [(first, candidate), (first, second.unwrap_or(first)), (candidate, second.unwrap_or(first))] {
        assert_eq!(compared.wants_again(a, b, rules), compared.wants_again(b, a, rules));
        assert!(!compared.wants_again(a, a, rules));
    }
    let again = second.map_or(Again::Failed, Again::Answered);
    let took = (Duration::from_millis(1), Duration::from_secs(1));
    let trial = Trial { first, candidate, again, is_sample: true, took };
    let found = compared.add(&trial, rules);
    let asks = rules.noise_percent.hundredths() > 0;
    assert!(!asks || found.is_some() == Compared::default().wants_again(first, candidate, rules));
    // It counts in the test if it says something: not where both refuse, and otherwise wherever the answers differ.
    let refuses = |answer: &Answer| !(200..300).contains(&answer.status());
    let least = u64::from(found.is_some());
    let counted = if refuses(first) && refuses(candidate) { 0..=0 } else { least..=1 };
    assert!(counted.contains(&compared.excess.total()), "{found:?}");
    if let Some(found) = &found {
        let shown = [Some(&found.active), Some(&found.candidate), found.again.as_ref()];
        assert!(shown.into_iter().flatten().all(|text| text.len() <= 200), "{found:?}");
        assert!(!found.field.is_empty() && found.field.len() <= 80, "{found:?}");
    }
    // With the colours exchanged it is worth the opposite, or as little.
    let mut exchanged = Compared::default();
    exchanged.add(&Trial { first: candidate, candidate: first, ..trial }, rules);
    assert_eq!(exchanged.disagreed, compared.disagreed);

    for _ in 0..24 {
        compared.add(&trial, rules);
    }
    let written = serde_json::to_string(&compared).expect("serialises");
    assert!(written.len() <= 64 << 10, "{} bytes", written.len());
    let read: Compared = json::from_str(&written).expect("reads what was written");
    assert_eq!(read.excess, compared.excess);
    let mut both = read;
    both.merge(&compared);
    assert_eq!(both.compared, 50);
    let findings = Findings::of(&both, rules, 0.02, 0.01);
    assert!(findings.sentence.len() < 240, "{}", findings.sentence);
    assert!(findings.excess.above_e_value.is_finite() && findings.excess.below_e_value.is_finite());
    serde_json::to_string(&findings).expect("serialises");
}
