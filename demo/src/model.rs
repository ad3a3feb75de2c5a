//! The two versions of the demo's model, as what serves them.

/// One colour's model server.
pub struct Model {
    pub colour: &'static str,
    pub version: &'static str,
    pub port: u16,
    /// What it answers for [`crate::call::FLOWER`].
    pub prediction: &'static str,
    /// By how many milliseconds each prediction is late.
    pub delay_ms: u64,
}

pub const BLUE: Model =
    Model { colour: "blue", version: "1", port: 1234, prediction: r#"{"predictions": [1]}"#, delay_ms: 0 };
pub const GREEN: Model =
    Model { colour: "green", version: "2", port: 1235, prediction: r#"{"predictions": [2]}"#, delay_ms: 0 };
/// The same version on a machine that is too small for it.
pub const SLOW_GREEN: Model = Model { delay_ms: 120, ..GREEN };
