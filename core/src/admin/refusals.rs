//! What remains of refused calls: a counter, now and then a line in the log, and patience with those who guess.
//!
//! A caller who guesses tokens waits for each answer once there were several wrong ones. A right token is never waited for, so
//! nobody is locked out. It slows a guesser down and does not stop one: only a token that cannot be guessed does.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use super::places::{Place, Places};
use super::problems::Problem;
use super::response::Response;
use crate::host::Host;
use crate::metrics::named::Named;

/// How a call is refused.
pub enum Refusal {
    /// With this answer.
    AtOnce(Response),
    /// With the answer that this ends with.
    Slowly(Pin<Box<dyn Future<Output = Response>>>),
}

/// The refused calls of one listener in one virtual machine.
pub struct Refusals {
    /// Whether a flow counts them for the next line in the log.
    is_counting: Cell<bool>,
    /// Those since the last line.
    unlogged: Cell<u64>,
    /// The last of them, and who sent it.
    last: RefCell<(&'static str, String)>,
    /// Wrong tokens of late: half of them are forgotten with each line.
    wrong_tokens: Cell<u32>,
    slow: Places,
}

/// So many wrong tokens are a mistake, and more are guesses.
const MISTAKES: u32 = 10;

/// So many callers are made to wait at once: each holds a stream open.
const SLOW: usize = 64;

/// How long a caller waits.
const WAIT: Duration = Duration::from_secs(1);

/// How long a line in the log stands for what comes after it.
const LINE_EVERY: Duration = Duration::from_secs(10);

// === impl Refusals ===

impl Refusals {
    /// Takes note of a refused call of `peer`, and says how it is answered.
    pub fn refuse(self: &Rc<Self>, host: &Rc<dyn Host>, problem: &Problem, peer: &str) -> Refusal {
        if let Some(reason) = problem.refusal_reason() {
            self.note(host, reason, peer);
        }
        let answer = Response::problem(problem, None);
        if !matches!(problem, Problem::Unauthenticated { presented: true }) {
            return Refusal::AtOnce(answer);
        }
        self.wrong_tokens.set(self.wrong_tokens.get().saturating_add(1));
        if self.wrong_tokens.get() <= MISTAKES {
            return Refusal::AtOnce(answer);
        }
        match self.slow.take() {
            Some(place) => Refusal::Slowly(Box::pin(slowly(Rc::clone(host), answer, place))),
            None => Refusal::AtOnce(Response::problem(&Problem::TooManyGuesses, None)),
        }
    }

    /// Takes note of a call that was refused for `reason`.
    pub fn note(self: &Rc<Self>, host: &Rc<dyn Host>, reason: &'static str, peer: &str) {
        host.count(&Named::AdminRefused(reason).to_string());
        self.last.replace((reason, peer.to_owned()));
        if self.is_counting.replace(true) {
            self.unlogged.set(self.unlogged.get().saturating_add(1));
            return;
        }
        host.warn(&format!("bluegreen: a call of the admin API from {peer} was refused: {reason}"));
        let (this, host_of_flow) = (Rc::clone(self), Rc::clone(host));
        host.spawn(Box::pin(async move { this.count(&*host_of_flow).await }));
    }

    /// Logs how many there were, until there are none.
    async fn count(&self, host: &dyn Host) {
        loop {
            host.sleep(LINE_EVERY).await;
            self.wrong_tokens.set(self.wrong_tokens.get() / 2);
            let more = self.unlogged.take();
            if more == 0 {
                break;
            }
            let (reason, peer) = &*self.last.borrow();
            host.warn(&format!(
                "bluegreen: {more} more calls of the admin API were refused within 10 s, the last of them from {peer}: {reason}"
            ));
        }
        self.wrong_tokens.set(0);
        self.is_counting.set(false);
    }
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            is_counting: Cell::default(),
            unlogged: Cell::default(),
            last: RefCell::default(),
            wrong_tokens: Cell::default(),
            slow: Places::new(SLOW),
        }
    }
}

async fn slowly(host: Rc<dyn Host>, answer: Response, _place: Place) -> Response {
    host.sleep(WAIT).await;
    answer
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::host::{TestHost, poll_once};

    const WRONG: Problem = Problem::Unauthenticated { presented: true };

    fn refusals() -> (Rc<TestHost>, Rc<dyn Host>, Rc<Refusals>) {
        let host = Rc::new(TestHost::default());
        (Rc::clone(&host), host, Rc::default())
    }

    fn pass(host: &TestHost, span: Duration) {
        host.pass(span);
        host.tick();
    }

    #[test]
    fn the_first_refused_call_is_logged_and_those_after_it_are_counted_in_one_line() {
        let (host, of_refusals, refusals) = refusals();
        for _ in 0..500 {
            refusals.refuse(&of_refusals, &Problem::Unauthenticated { presented: false }, "10.0.0.7:1");
        }
        refusals.refuse(&of_refusals, &WRONG, "10.0.0.8:2");
        assert_eq!(host.take_log(), ["bluegreen: a call of the admin API from 10.0.0.7:1 was refused: no-token"]);
        host.tick();
        pass(&host, LINE_EVERY);
        let line = "bluegreen: 500 more calls of the admin API were refused within 10 s, the last of them from 10.0.0.8:2: wrong-token";
        assert_eq!(host.take_log(), [line]);
        pass(&host, LINE_EVERY);
        assert_eq!((host.take_log(), host.tasks.len()), (Vec::new(), 0), "nothing came, and nothing is counted");
        assert_eq!(host.counter("bluegreen.reason.no-token.admin_refused_total"), 500);
    }

    #[test]
    fn who_guesses_is_answered_slowly_and_so_many_at_once_that_nothing_piles_up() {
        let (host, of_refusals, refusals) = refusals();
        let mut slow = Vec::new();
        let mut at_once = Vec::new();
        for _ in 0..100 {
            match refusals.refuse(&of_refusals, &WRONG, "10.0.0.7:1") {
                Refusal::AtOnce(response) => at_once.push(response.status),
                Refusal::Slowly(answer) => slow.push(answer),
            }
        }
        assert_eq!((slow.len(), at_once.len()), (SLOW, 100 - SLOW));
        assert_eq!(at_once.iter().filter(|status| **status == 429).count(), 100 - SLOW - 10);
        let mut first = slow.remove(0);
        assert!(poll_once(first.as_mut()).is_pending());
        pass(&host, WAIT);
        assert!(poll_once(first.as_mut()).is_ready());
        drop((first, slow));
        let again = refusals.refuse(&of_refusals, &WRONG, "10.0.0.7:1");
        assert!(matches!(again, Refusal::Slowly(_)), "their places are free");
        (0..3).for_each(|_| pass(&host, LINE_EVERY));
        let later = refusals.refuse(&of_refusals, &WRONG, "10.0.0.7:1");
        assert!(matches!(later, Refusal::AtOnce(_)), "it is forgotten");
    }
}
