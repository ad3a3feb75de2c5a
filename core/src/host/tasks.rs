//! The flows that are under way, and when each is polled.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use crate::model::sorted_map::SortedMap;

/// A flow that runs on its own.
pub type Flow = Pin<Box<dyn Future<Output = ()>>>;

/// Names a flow among those of one [`Tasks`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskId(u64);

/// The flows of one thread. They are polled from the host's events only, never from within one another.
#[derive(Default)]
pub struct Tasks {
    flows: RefCell<SortedMap<TaskId, Task>>,
    woken: Arc<Woken>,
    last: Cell<u64>,
    /// By a run that polls so many at most: the next one goes on after it.
    last_polled: Cell<TaskId>,
}

struct Task {
    waker: Waker,
    /// `None` while it is being polled.
    flow: Option<Flow>,
}

/// The flows that have to be polled, in their order. A waker has to be one that could be sent to another thread, hence the lock, which
/// nobody ever waits for.
#[derive(Default)]
struct Woken(Mutex<Vec<TaskId>>);

/// Wakes one flow.
struct WakeOne {
    id: TaskId,
    woken: Arc<Woken>,
}

// === impl Tasks ===

impl Tasks {
    /// Adds a flow, which the next run polls for the first time.
    pub fn add(&self, flow: Flow) -> TaskId {
        let id = TaskId(self.last.get().wrapping_add(1));
        self.last.set(id.0);
        let waker = Waker::from(Arc::new(WakeOne { id, woken: Arc::clone(&self.woken) }));
        self.flows.borrow_mut().insert(id, Task { waker, flow: Some(flow) });
        self.woken.add(id);
        id
    }

    /// Drops a flow, unless it has ended.
    pub fn cancel(&self, id: TaskId) {
        let cancelled = self.flows.borrow_mut().remove(&id);
        // What a flow holds may look at the others as it is dropped.
        drop(cancelled);
    }

    /// Drops all flows.
    pub fn clear(&self) {
        // Out of the table first, as in `cancel`.
        drop(self.flows.take());
    }

    /// Polls the flows that may go on, in the order in which they were added, until none may.
    pub fn run(&self) {
        while let Some(id) = self.woken.with(|woken| (!woken.is_empty()).then(|| woken.remove(0))).flatten() {
            self.poll(id);
        }
    }

    /// Polls flows that may go on, so many at most, those that have waited longest first. The rest may go on in the next run.
    pub fn run_at_most(&self, count: usize) {
        for _ in 0..count {
            let next = |woken: &mut Vec<TaskId>| {
                let after = woken.partition_point(|id| *id <= self.last_polled.get());
                let place = if after < woken.len() { after } else { 0 };
                (!woken.is_empty()).then(|| woken.remove(place))
            };
            let Some(id) = self.woken.with(next).flatten() else { return };
            self.last_polled.set(id);
            self.poll(id);
        }
    }

    /// Polls one flow if it may go on.
    pub fn run_only(&self, id: TaskId) {
        while self.woken.remove(id) {
            self.poll(id);
        }
    }

    /// How many flows have not ended.
    pub fn len(&self) -> usize {
        self.flows.borrow().len()
    }

    /// Whether all flows have ended.
    pub fn is_empty(&self) -> bool {
        self.flows.borrow().is_empty()
    }

    fn poll(&self, id: TaskId) {
        let Some((mut flow, waker)) = self.take(id) else { return };
        let polled = flow.as_mut().poll(&mut Context::from_waker(&waker));
        let mut flows = self.flows.borrow_mut();
        let ended = match polled {
            Poll::Ready(()) => flows.remove(&id),
            Poll::Pending => {
                // One that is not there any more has cancelled itself.
                if let Some(task) = flows.get_mut(&id) {
                    task.flow = Some(flow);
                    return;
                }
                None
            }
        };
        drop(flows);
        drop(ended);
    }

    fn take(&self, id: TaskId) -> Option<(Flow, Waker)> {
        let mut flows = self.flows.borrow_mut();
        let task = flows.get_mut(&id)?;
        Some((task.flow.take()?, task.waker.clone()))
    }
}

// === impl Woken ===

impl Woken {
    fn with<R>(&self, change: impl FnOnce(&mut Vec<TaskId>) -> R) -> Option<R> {
        self.0.lock().ok().map(|mut woken| change(&mut woken))
    }

    fn add(&self, id: TaskId) {
        self.with(|woken| {
            if let Err(place) = woken.binary_search(&id) {
                woken.insert(place, id);
            }
        });
    }

    /// Whether it was there.
    fn remove(&self, id: TaskId) -> bool {
        let remove = |woken: &mut Vec<TaskId>| woken.binary_search(&id).map(|place| woken.remove(place)).is_ok();
        self.with(remove).unwrap_or_default()
    }
}

// === impl WakeOne ===

impl Wake for WakeOne {
    fn wake(self: Arc<Self>) {
        self.woken.add(self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::host::reply::Reply;

    /// A flow that adds its number to the list when its reply has come.
    fn noting(list: &Rc<RefCell<Vec<u32>>>, number: u32, reply: Reply<()>) -> Flow {
        let list = Rc::clone(list);
        Box::pin(async move {
            reply.await;
            list.borrow_mut().push(number);
        })
    }

    #[test]
    fn a_flow_goes_on_when_its_reply_has_come_and_not_before() {
        let (tasks, list) = (Tasks::default(), Rc::default());
        let (first, reply) = Reply::pending();
        tasks.add(noting(&list, 1, reply));
        tasks.add(noting(&list, 2, Reply::ready(())));
        tasks.run();
        assert_eq!((list.take(), tasks.len()), (vec![2], 1));
        first.send(()).expect("it waits");
        tasks.run();
        assert_eq!((list.take(), tasks.is_empty()), (vec![1], true));
    }

    #[test]
    fn a_flow_that_is_cancelled_waits_for_nothing_any_more() {
        let (tasks, list) = (Tasks::default(), Rc::default());
        let (sender, reply) = Reply::pending();
        let id = tasks.add(noting(&list, 1, reply));
        tasks.run();
        tasks.cancel(id);
        assert!(sender.is_canceled());
        tasks.run();
        assert_eq!(list.take(), Vec::<u32>::new());
    }

    #[test]
    fn one_flow_alone_can_be_polled() {
        let (tasks, list) = (Tasks::default(), Rc::default());
        tasks.add(noting(&list, 1, Reply::ready(())));
        let second = tasks.add(noting(&list, 2, Reply::ready(())));
        tasks.run_only(second);
        assert_eq!(list.take(), [2]);
        tasks.run();
        assert_eq!(list.take(), [1]);
    }

    #[test]
    fn a_run_of_so_many_goes_on_where_the_last_one_stopped() {
        let (tasks, list) = (Tasks::default(), Rc::<RefCell<Vec<u32>>>::default());
        let notes = |number| {
            let list = Rc::clone(&list);
            // Each may go on again and again, as one that waits for every tick.
            std::future::poll_fn(move |cx| {
                list.borrow_mut().push(number);
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            })
        };
        for number in 1..=5 {
            tasks.add(Box::pin(notes(number)));
        }
        tasks.run_at_most(2);
        tasks.run_at_most(2);
        tasks.run_at_most(2);
        assert_eq!(list.take(), [1, 2, 3, 4, 5, 1]);
    }

    #[test]
    fn a_flow_that_adds_another_one_has_it_polled_in_the_same_run() {
        let (tasks, list) = (Rc::new(Tasks::default()), Rc::default());
        let (within, added) = (Rc::clone(&tasks), noting(&list, 1, Reply::ready(())));
        tasks.add(Box::pin(async move {
            within.add(added);
        }));
        tasks.run();
        assert_eq!((list.take(), tasks.is_empty()), (vec![1], true));
    }

    #[test]
    fn a_flow_that_cancels_itself_is_gone() {
        let tasks = Rc::new(Tasks::default());
        let (within, own) = (Rc::clone(&tasks), Rc::new(Cell::new(None)));
        let known = Rc::clone(&own);
        own.set(Some(tasks.add(Box::pin(async move {
            if let Some(id) = known.get() {
                within.cancel(id);
            }
            std::future::pending::<()>().await;
        }))));
        tasks.run();
        assert!(tasks.is_empty());
    }
}
