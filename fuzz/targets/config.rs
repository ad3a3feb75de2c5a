//! A configuration as JSON. What is accepted is accepted again in Envoy's other form, and means the same there; and the
//! filter starts with it.

#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use bluegreen_core::config::Config;
use bluegreen_fuzz::work::bounded;
use bluegreen_fuzz::world::World;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use std::time::Duration;

fuzz_target!(|input: &[u8]| {
    let read = bounded(input, 1 << 20, 4 << 10, || Config::from_bytes(input));
    let mut config = match read {
        Ok(config) => config,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && text.len() <= 2_048 + 8 * input.len(), "{text}");
            return;
        }
    };
    // Bytes that are no JSON are the other form already.
    if let Ok(document) = serde_json::from_slice::<serde_json::Value>(input) {
        let again = serde_json::to_vec(&document).expect("serialises");
        assert_eq!(Config::from_bytes(&again).as_ref(), Ok(&config), "written again");
        if let Some(message) = object(&document) {
            let mut other = Config::from_bytes(&message.encode_to_vec()).expect("the other form");
            // The digest is one of what was written: 1 and 1.0 are not the same there.
            config
                .deployments
                .values_mut()
                .chain(other.deployments.values_mut())
                .for_each(|one| Arc::make_mut(one).digest = 0);
            assert_eq!(other, config);
        }
    }
    bounded(input, 16 << 20, 64 << 10, || {
        let world = World::new(&config);
        for _ in 0..4 {
            world.tick(Duration::from_secs(2));
        }
    });
});

/// As Envoy hands it over; nothing where a number does not survive that.
fn object(document: &serde_json::Value) -> Option<Struct> {
    let members = document.as_object()?.iter();
    let fields: Option<BTreeMap<String, Value>> =
        members.map(|(name, value)| Some((name.clone(), of(value)?))).collect();
    Some(Struct { fields: fields? })
}

fn of(value: &serde_json::Value) -> Option<Value> {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(truth) => Kind::BoolValue(*truth),
        serde_json::Value::Number(number) => {
            let float = number.as_f64()?;
            // Beyond 2^53 a number is another one as a float; and -0 is one that no field takes.
            if float.abs() > 9e15 || float.to_bits() == (-0.0_f64).to_bits() {
                return None;
            }
            Kind::NumberValue(float)
        }
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(list) => {
            Kind::ListValue(ListValue { values: list.iter().map(of).collect::<Option<_>>()? })
        }
        serde_json::Value::Object(_) => Kind::StructValue(object(value)?),
    };
    Some(Value { kind: Some(kind) })
}
