//! What every instance does at each tick so that the others know of it.

use crate::change::context::Context;
use crate::host::next_tick;

/// Gives signs of life, takes over what it was not told of, and says what it has counted.
pub async fn beat(context: &Context) {
    loop {
        next_tick(&*context.host).await;
        context.worker.tick(&*context.host, &context.deployments);
    }
}
