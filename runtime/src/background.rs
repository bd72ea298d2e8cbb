//! Turns that may wait: an actor that was sent only what nobody waits for takes its turn when its sender's arbiter has
//! nothing else to do, or has taken [`TURNS_MAX`] turns since.
//!
//! A packet that comes to an idle chain so has the arbiter to itself until it has left. Without this every actor that is
//! told how far another one has come would take its turn in front of it, each with cold caches. An arbiter that could not be
//! waited for has load: until it is idle again nothing waits there, since who has its turn soon handles what comes
//! meanwhile, too.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

/// How many turns of others one that may wait lets pass while there are always some.
const TURNS_MAX: u32 = 32;

/// What may wait for its turn.
pub(crate) trait Rouse: Send + Sync {
    /// Has it take its turn, unless it has since.
    fn rouse(&self);
}

/// What waits on one arbiter.
#[derive(Default)]
struct Waiting {
    actors: Vec<Arc<dyn Rouse>>,
    /// Turns taken, and how many there had been when the first of them came.
    turns: u32,
    turns_before: u32,
    /// Whether there was more to do than could be waited for, and has been ever since.
    is_loaded: bool,
    /// The task that looks whether there is anything else to do, while it need not.
    task: Option<Waker>,
}

thread_local! {
    /// `None` on threads that are no arbiters.
    static WAITING: RefCell<Option<Waiting>> = const { RefCell::new(None) };
}

/// Has `actor` take its turn when nothing else is to be done on this thread; at once if that is no arbiter, or has load.
pub(crate) fn rouse_later(actor: Arc<dyn Rouse>) {
    let refused = WAITING.with_borrow_mut(|waiting| match waiting {
        Some(waiting) if !waiting.is_loaded => {
            if waiting.actors.is_empty() {
                waiting.turns_before = waiting.turns;
            }
            waiting.actors.push(actor);
            waiting.task.take().into_iter().for_each(Waker::wake);
            None
        }
        _ => Some(actor),
    });
    if let Some(actor) = refused {
        actor.rouse();
    }
}

/// A turn in which something was done is taken on this thread.
pub(crate) fn count_turn() {
    let is_due = WAITING.with_borrow_mut(|waiting| {
        let Some(waiting) = waiting else { return false };
        waiting.turns = waiting.turns.wrapping_add(1);
        let waited = waiting.turns.wrapping_sub(waiting.turns_before);
        let is_due = waited >= TURNS_MAX && !waiting.actors.is_empty();
        waiting.is_loaded |= is_due;
        is_due
    });
    if is_due {
        rouse_all();
    }
}

fn rouse_all() {
    let actors = WAITING.with_borrow_mut(|waiting| waiting.as_mut().map(|w| std::mem::take(&mut w.actors)));
    actors.into_iter().flatten().for_each(|actor| actor.rouse());
}

/// Turns in which something was done on this thread, if it is an arbiter: a number that goes round.
pub(crate) fn turns() -> u32 {
    WAITING.with_borrow(|waiting| waiting.as_ref().map_or(0, |waiting| waiting.turns))
}

/// Makes this thread one on which turns may wait.
pub(crate) fn begin() {
    WAITING.set(Some(Waiting::default()));
}

/// Nothing waits on this thread any more, for it takes no more turns.
pub(crate) fn end() {
    rouse_all();
    WAITING.set(None);
}

/// Has those that wait take their turns whenever there is nothing else to do. Never ends.
pub(crate) async fn serve() {
    loop {
        poll_fn(|cx| {
            WAITING.with_borrow_mut(|waiting| match waiting {
                Some(waiting) if waiting.actors.is_empty() && !waiting.is_loaded => {
                    waiting.task = Some(cx.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            })
        })
        .await;
        loop {
            let before = turns();
            // Comes back when every task that could run has, and what is ready has been asked for.
            tokio::task::yield_now().await;
            if turns() == before {
                break;
            }
        }
        WAITING.with_borrow_mut(|waiting| waiting.iter_mut().for_each(|waiting| waiting.is_loaded = false));
        rouse_all();
    }
}

#[cfg(test)]
mod tests {
    use crate::actor::{Actor, ActorOptions, Cause, Cx, Progress, spawn_unsupervised};
    use crate::arbiter::{Arbiter, Arbiters, run_local};
    use crate::mailbox::{Handle, Packets};

    /// How often it is still to be passed on.
    struct Hops(u32);

    impl Packets for Hops {
        fn packet_count(&self) -> usize {
            1
        }
    }

    /// Tells its name, and passes on what is to go on.
    struct Stage {
        name: &'static str,
        next: Option<Handle<(), Hops>>,
        seen: flume::Sender<&'static str>,
    }

    impl Actor for Stage {
        type Control = ();
        type Data = Hops;

        fn on_control(&mut self, (): (), _cx: &mut Cx) {}

        fn on_data(&mut self, Hops(left): Hops, _cx: &mut Cx) {
            self.seen.send(self.name).expect("the test waits");
            if let (Some(next), 1..) = (&self.next, left) {
                next.push(Hops(left - 1)).expect("it is alive");
            }
        }
    }

    fn stage(
        arbiter: &Arbiter,
        name: &'static str,
        next: Option<Handle<(), Hops>>,
        seen: &flume::Sender<&'static str>,
    ) -> Handle<(), Hops> {
        let seen = seen.clone();
        spawn_unsupervised(arbiter, name, ActorOptions::default(), move |_| Stage { name, next, seen }).0
    }

    #[test]
    fn what_may_wait_is_handled_when_the_packet_in_front_has_left() {
        let (seen, rx) = flume::unbounded();
        let arbiters = Arbiters::start(1, &[]).expect("threads can be started");
        let arbiter = arbiters.get(0).expect("one was started");
        let background = stage(arbiter, "background", None, &seen);
        let last = stage(arbiter, "last", None, &seen);
        let middle = stage(arbiter, "middle", Some(last), &seen);
        let first = stage(arbiter, "first", Some(middle), &seen);
        // On the arbiter, when all have taken their first turns and are idle.
        for handle in [&background, &first] {
            handle.push(Hops(0)).expect("it is alive");
            rx.recv().expect("it answers");
        }
        // An actor nobody holds takes a last turn.
        let pushed = background.clone();
        arbiter
            .execute(move || {
                pushed.push_background(Hops(0)).expect("it is alive");
                pushed.push_background(Hops(0)).expect("it is alive");
                first.push(Hops(2)).expect("it is alive");
            })
            .expect("it runs");
        let order: Vec<_> = rx.iter().take(5).collect();
        assert_eq!(order, ["first", "middle", "last", "background", "background"]);
        arbiters.join();
    }

    /// Does the same each time it is asked for work.
    struct Source<F>(F);

    impl<F: FnMut() -> Progress + 'static> Actor for Source<F> {
        type Control = ();
        type Data = Hops;

        fn on_control(&mut self, (): (), _cx: &mut Cx) {}

        fn on_data(&mut self, _: Hops, _cx: &mut Cx) {}

        fn poll_work(&mut self, _cx: &mut Cx) -> Progress {
            self.0()
        }
    }

    /// Sends three bursts through three stages; beside it there is an actor that always has something to do, or not.
    fn three_bursts(beside_load: bool) -> Vec<&'static str> {
        struct Load;
        impl Actor for Load {
            type Control = ();
            type Data = Hops;
            fn on_control(&mut self, (): (), _cx: &mut Cx) {}
            fn on_data(&mut self, _: Hops, _cx: &mut Cx) {}
            fn poll_work(&mut self, _cx: &mut Cx) -> Progress {
                Progress::Worked
            }
        }
        let (seen, rx) = flume::unbounded();
        let arbiters = Arbiters::start(1, &[]).expect("threads can be started");
        let arbiter = arbiters.get(0).expect("one was started");
        let last = stage(arbiter, "last", None, &seen);
        let middle = stage(arbiter, "middle", Some(last), &seen);
        let next = stage(arbiter, "first", Some(middle), &seen);
        let _load =
            beside_load.then(|| spawn_unsupervised(arbiter, "load", ActorOptions::default(), |_| Load));
        let mut left = 3;
        let work = move || {
            if left == 0 {
                return Progress::Done;
            }
            left -= 1;
            seen.send("source").expect("the test waits");
            next.push(Hops(2)).expect("it is alive");
            Progress::Fed
        };
        let _source = spawn_unsupervised(arbiter, "source", ActorOptions::default(), |_| Source(work));
        let order = rx.iter().take(12).collect();
        arbiters.join();
        order
    }

    #[test]
    fn a_burst_goes_through_the_whole_chain_before_the_next_one_is_read() {
        let order = three_bursts(false);
        for burst in order.chunks(4) {
            assert_eq!(burst, ["source", "first", "middle", "last"]);
        }
    }

    #[test]
    fn whom_another_thread_woke_has_its_turn_before_the_next_burst_is_read() {
        let (seen, rx) = flume::unbounded();
        let (ask, asked) = flume::unbounded();
        let (answer, done) = flume::unbounded();
        let arbiters = Arbiters::start(1, &[]).expect("threads can be started");
        let arbiter = arbiters.get(0).expect("one was started");
        let woken = stage(arbiter, "woken", None, &seen);
        // It has taken its first turn, and is idle.
        woken.push(Hops(0)).expect("it is alive");
        rx.recv().expect("it answers");
        let other = std::thread::spawn(move || {
            for () in asked {
                woken.push(Hops(0)).expect("it is alive");
                answer.send(()).expect("the source waits");
            }
        });
        let mut left = 20;
        let work = move || {
            if left == 0 {
                return Progress::Done;
            }
            left -= 1;
            seen.send("source").expect("the test waits");
            ask.send(()).expect("the other thread waits");
            done.recv().expect("it answers");
            Progress::Fed
        };
        let source = spawn_unsupervised(arbiter, "source", ActorOptions::default(), |_| Source(work));
        let order: Vec<_> = rx.iter().take(40).collect();
        for burst in order.chunks(2) {
            assert_eq!(burst, ["source", "woken"]);
        }
        arbiters.join();
        drop(source);
        other.join().expect("no panic");
    }

    #[test]
    fn a_source_that_is_asked_all_the_time_is_not_asked_between_the_stages_of_a_chain() {
        let (seen, rx) = flume::unbounded();
        let arbiters = Arbiters::start(1, &[]).expect("threads can be started");
        let arbiter = arbiters.get(0).expect("one was started");
        let last = stage(arbiter, "last", None, &seen);
        let middle = stage(arbiter, "middle", Some(last), &seen);
        let mut next = Some(stage(arbiter, "first", Some(middle), &seen));
        let work = move || {
            let Some(next) = next.take() else {
                seen.send("asked").expect("the test waits");
                return Progress::Done;
            };
            next.push(Hops(2)).expect("it is alive");
            Progress::Idle
        };
        let options = ActorOptions { busy_poll: true, ..ActorOptions::default() };
        let _source = spawn_unsupervised(arbiter, "source", options, |_| Source(work));
        let order: Vec<_> = rx.iter().take(4).collect();
        assert_eq!(order, ["first", "middle", "last", "asked"]);
        arbiters.join();
    }

    #[test]
    fn a_source_is_not_held_up_for_ever_by_others_that_always_have_something_to_do() {
        let order = three_bursts(true);
        assert_eq!(order.iter().filter(|name| **name == "source").count(), 3, "{order:?}");
    }

    #[test]
    fn what_may_wait_does_not_wait_for_ever_on_an_arbiter_with_load_and_then_no_more() {
        /// Has always something to do.
        struct Restless {
            turns: u32,
            other: Handle<(), Hops>,
            heard: flume::Receiver<&'static str>,
        }
        impl Actor for Restless {
            type Control = ();
            type Data = Hops;
            fn on_control(&mut self, (): (), _cx: &mut Cx) {}
            fn on_data(&mut self, _: Hops, _cx: &mut Cx) {}
            fn poll_work(&mut self, cx: &mut Cx) -> Progress {
                self.turns += 1;
                if self.turns == 10 || self.turns == 200 {
                    self.other.push_background(Hops(0)).expect("it is alive");
                }
                let heard = self.heard.len();
                match self.turns {
                    15 if heard > 0 => cx.fail("it did not wait"),
                    100 if heard == 0 => cx.fail("it waits for ever"),
                    205 if heard == 1 => cx.fail("it waits although there is load"),
                    206 => cx.stop(),
                    _ => {}
                }
                Progress::Worked
            }
        }
        let (seen, rx) = flume::unbounded();
        let ended = run_local("here", None, |arbiter| {
            let other = stage(arbiter, "background", None, &seen);
            let options = ActorOptions::default();
            let (_, ended) =
                spawn_unsupervised(arbiter, "restless", options, |_| Restless { turns: 0, other, heard: rx });
            ended.into_recv_async()
        });
        assert_eq!(ended.expect("it ran"), Ok(Cause::Stopped));
    }

    #[test]
    fn from_a_thread_without_actors_nothing_waits() {
        let (seen, rx) = flume::unbounded();
        let arbiters = Arbiters::start(1, &[]).expect("threads can be started");
        let handle = stage(arbiters.get(0).expect("one was started"), "background", None, &seen);
        for _ in 0..1_000 {
            handle.push_background(Hops(0)).expect("it is alive");
            assert_eq!(rx.recv(), Ok("background"));
        }
        arbiters.join();
    }
}
