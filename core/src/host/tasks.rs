//! The flows that are under way, and when each is polled.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A flow that runs on its own.
pub type Flow = Pin<Box<dyn Future<Output = ()>>>;

/// Names a flow among those of one [`Tasks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskId(u64);

/// The flows of one thread. They are polled from the host's events only, never from within one another.
#[derive(Default)]
pub struct Tasks {
    list: RefCell<Vec<Task>>,
    last: Cell<u64>,
    /// By a run that polls so many at most: the next one goes on after it.
    last_polled: Cell<u64>,
}

struct Task {
    id: TaskId,
    woken: Arc<Woken>,
    /// `None` while it is being polled.
    flow: Option<Flow>,
}

/// Whether a flow has to be polled.
struct Woken(AtomicBool);

// === impl Tasks ===

impl Tasks {
    /// Adds a flow, which the next run polls for the first time.
    pub fn add(&self, flow: Flow) -> TaskId {
        let id = TaskId(self.last.get().wrapping_add(1));
        self.last.set(id.0);
        self.list.borrow_mut().push(Task { id, woken: Arc::new(Woken(AtomicBool::new(true))), flow: Some(flow) });
        id
    }

    /// Drops a flow, unless it has ended.
    pub fn cancel(&self, id: TaskId) {
        let mut list = self.list.borrow_mut();
        let cancelled = list.iter().position(|task| task.id == id).map(|place| list.remove(place));
        drop(list);
        // What a flow holds may look at the list as it is dropped.
        drop(cancelled);
    }

    /// Drops all flows.
    pub fn clear(&self) {
        // Out of the list first, as in `cancel`.
        drop(self.list.take());
    }

    /// Polls the flows that may go on, in the order in which they were added, until none may.
    pub fn run(&self) {
        while let Some(id) = self.first_woken() {
            self.poll(id);
        }
    }

    /// Polls flows that may go on, so many at most, those that have waited longest first. The rest may go on in the next run.
    pub fn run_at_most(&self, count: usize) {
        for _ in 0..count {
            let last = self.last_polled.get();
            let next = self.first_woken_where(|id| id > last).or_else(|| self.first_woken_where(|_| true));
            let Some(id) = next else { return };
            self.last_polled.set(id.0);
            self.poll(id);
        }
    }

    /// Polls one flow if it may go on.
    pub fn run_only(&self, id: TaskId) {
        while self.list.borrow().iter().any(|task| task.id == id && task.woken.is_set()) {
            self.poll(id);
        }
    }

    /// How many flows have not ended.
    pub fn len(&self) -> usize {
        self.list.borrow().len()
    }

    /// Whether all flows have ended.
    pub fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }

    fn first_woken(&self) -> Option<TaskId> {
        self.first_woken_where(|_| true)
    }

    fn first_woken_where(&self, is_meant: impl Fn(u64) -> bool) -> Option<TaskId> {
        self.list.borrow().iter().find(|task| is_meant(task.id.0) && task.woken.is_set()).map(|task| task.id)
    }

    fn poll(&self, id: TaskId) {
        let Some((mut flow, woken)) = self.take(id) else { return };
        let waker = Waker::from(woken);
        let polled = flow.as_mut().poll(&mut Context::from_waker(&waker));
        let mut list = self.list.borrow_mut();
        let Some(place) = list.iter().position(|task| task.id == id) else {
            // It cancelled itself.
            drop(list);
            return;
        };
        match polled {
            Poll::Ready(()) => {
                list.remove(place);
            }
            Poll::Pending => {
                if let Some(task) = list.get_mut(place) {
                    task.flow = Some(flow);
                }
            }
        }
    }

    fn take(&self, id: TaskId) -> Option<(Flow, Arc<Woken>)> {
        let mut list = self.list.borrow_mut();
        let task = list.iter_mut().find(|task| task.id == id)?;
        task.woken.0.store(false, Ordering::Relaxed);
        Some((task.flow.take()?, Arc::clone(&task.woken)))
    }
}

// === impl Woken ===

impl Woken {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
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
