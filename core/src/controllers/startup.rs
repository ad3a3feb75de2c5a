//! The first seconds of a configuration in a fleet.

use crate::change::context::Context;
use crate::host::next_tick;
use crate::model::time::TICK;
use crate::store::lease::{FIRST_TICKS, STARTUP_WINDOW};

/// Has ticks come fast until the fleet's states have come, for at most [`STARTUP_WINDOW`]. The first tick comes fast even if
/// they have: an instance has to follow the fleet anew.
pub async fn hurry(context: &Context) {
    let host = &*context.host;
    if context.etcd.is_none() {
        return host.tick_every(TICK);
    }
    host.tick_every(FIRST_TICKS);
    let until = host.now().plus(STARTUP_WINDOW);
    loop {
        next_tick(host).await;
        if until <= host.now() || context.is_synced() {
            return host.tick_every(TICK);
        }
    }
}
