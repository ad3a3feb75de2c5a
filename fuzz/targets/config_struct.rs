//! A configuration as the bytes of a `google.protobuf.Struct`, or of what claims to be one.

#![no_main]

use bluegreen_core::config::Config;
use bluegreen_fuzz::work::bounded;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use prost_types::Struct;

fuzz_target!(|input: &[u8]| {
    let read = bounded(input, 1 << 20, 8 << 10, || Config::from_bytes(input));
    let Ok(config) = read else { return };
    // What was read is one message, whatever order and repetitions its bytes had.
    if let Ok(message) = Struct::decode(input) {
        assert_eq!(Config::from_bytes(&message.encode_to_vec()), Ok(config));
    }
});
