//! What a packet or timer waits for: results, its records, acknowledgements, pauses.

use super::{Cx, DONE, Inner, Job, ORDERED_MAX, State};
use crate::instance::records::Records;
use crate::routing::Route;
use chc_api::{Clock, ObjectId, ObjectKey, Op, OpValue, Position, Protections};
use chc_store::batch::{FetchItem, Fetched, OpItem, OpName};
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// What a job waits for.
#[derive(Clone, Copy)]
pub(super) enum Wait {
    /// The result of an operation.
    Operation(OpItem),
    /// Its connection's records.
    Records,
    /// The acknowledgement of what it did.
    Settled,
}

impl<P: Protections> Inner<P> {
    /// Delivers a result; the slot of the job that waited for it, if any does.
    pub fn deliver(&mut self, name: &OpName, result: OpValue) -> Option<usize> {
        let slot = self.waiting.remove(name)?;
        self.jobs[slot].result = Some(result);
        Some(slot)
    }

    /// The shard says what an operation left that a job waits for.
    pub fn learn(&mut self, name: &OpName, value: &OpValue) {
        let job = self.waiting.get(name).map(|slot| &self.jobs[*slot]);
        if let Some(Some((Wait::Operation(item), _))) = job.map(|job| job.waits_for)
            && let Some(cache) = &mut self.cache
        {
            cache.learn(&item, value);
        }
    }

    /// A time-out is over: operations that were issued before it began and have no result yet are issued again.
    pub fn ask_again(&mut self) {
        let State::Store(client) = &mut self.state else { return };
        for job in &mut self.jobs {
            let Some((wait, overdue)) = &mut job.waits_for else { continue };
            if !std::mem::replace(overdue, true) || job.result.is_some() {
                continue;
            }
            match wait {
                Wait::Operation(item) => {
                    client.submit(*item);
                }
                Wait::Records => client.fetch(fetch_item(job, &self.records, &self.own)),
                // The batches themselves are sent again.
                Wait::Settled => {}
            }
        }
    }

    /// What jobs wait for: of the store, and pauses.
    #[must_use]
    pub fn waits(&self) -> usize {
        self.waiting.len() + self.fetching.len() + self.settling_jobs + self.paused
    }

    /// The job at `position` has its connection's records; its slot, if it waits for them.
    pub fn fetched(&mut self, position: &Position, records: &Fetched) -> Option<usize> {
        let slot = self.fetching.remove(position)?;
        let job = &self.jobs[slot];
        for (object, record) in records {
            self.records.refresh(*object, &job.identity.key, job.hash, record);
        }
        Some(slot)
    }

    /// Puts into the next batches what jobs are waiting to have acknowledged.
    fn write_through(&mut self) {
        if self.unsettled.is_empty() {
            return;
        }
        if self.mode.is_uncached() {
            self.records.flush(Clock(u64::MAX));
        }
        if let State::Store(client) = &mut self.state {
            client.gather_counts();
        }
    }

    /// Batches were sent: the jobs that waited for that wait for their acknowledgement now.
    pub fn written_through(&mut self) {
        if let State::Store(client) = &self.state
            && !self.unsettled.is_empty()
        {
            let mut batches = Vec::new();
            client.issued(&mut batches);
            self.settling.push_back((batches, std::mem::take(&mut self.unsettled)));
        }
    }

    /// The jobs all of whose updates are acknowledged.
    pub fn settled(&mut self) -> Vec<usize> {
        self.write_through();
        let State::Store(client) = &self.state else { return Vec::new() };
        let mut done = Vec::new();
        while self.settling.front().is_some_and(|(batches, _)| client.settled(batches)) {
            done.extend(self.settling.pop_front().into_iter().flat_map(|(_, jobs)| jobs));
        }
        if self.records.versions.is_empty() && !client.has_news() && !client.awaits_acknowledgement() {
            // Their updates left with batches of others.
            done.append(&mut self.unsettled);
        }
        self.settling_jobs -= done.len();
        for slot in &done {
            self.jobs[*slot].waits_for = None;
        }
        done
    }

    /// A pause is over; false if the job in `slot` does not pause.
    pub fn pause_over(&mut self, slot: usize) -> bool {
        let paused = std::mem::take(&mut self.jobs[slot].paused);
        self.paused -= usize::from(paused);
        paused
    }
}

impl<P: Protections> Cx<P> {
    /// Gets the connection's records from the store.
    pub fn fetch(&self) -> impl Future<Output = ()> + use<P> {
        Fetch { cx: self.clone(), is_asked: false }
    }

    /// Waits until the store has what the job did.
    pub fn settle(&self) -> impl Future<Output = ()> + use<P> {
        Settle { cx: self.clone(), is_noted: false }
    }
}

/// An operation whose result is awaited.
pub(super) struct Operation<P: 'static> {
    pub(super) cx: Cx<P>,
    pub(super) what: Option<(ObjectId, ObjectKey, Op)>,
}

impl<P: Protections> Future for Operation<P> {
    type Output = OpValue;

    fn poll(mut self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<OpValue> {
        let this = &mut *self;
        let mut inner = this.cx.env.inner();
        if let Some((object, key, op)) = &this.what {
            let issued = inner.issue(this.cx.slot, *object, key, op, true);
            this.what = None;
            return issued;
        }
        let job = &mut inner.jobs[this.cx.slot];
        match job.result.take() {
            Some(value) => {
                job.waits_for = None;
                Poll::Ready(value)
            }
            None => Poll::Pending,
        }
    }
}

/// The records of a connection that are not cached: fetched.
struct Fetch<P: 'static> {
    cx: Cx<P>,
    is_asked: bool,
}

impl<P: Protections> Future for Fetch<P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut inner = this.cx.env.inner();
        let inner = &mut *inner;
        let (job, slot) = (&mut inner.jobs[this.cx.slot], this.cx.slot);
        if !std::mem::replace(&mut this.is_asked, true)
            && let State::Store(client) = &mut inner.state
        {
            client.fetch(fetch_item(job, &inner.records, &inner.own));
            inner.fetching.insert(job.position, slot);
            inner.round_trips += 1;
            job.waits_for = Some((Wait::Records, false));
            return Poll::Pending;
        }
        if inner.fetching.contains_key(&job.position) {
            return Poll::Pending;
        }
        job.waits_for = None;
        Poll::Ready(())
    }
}

fn fetch_item<P: Protections>(job: &Job, records: &Records<P>, own: &Route) -> FetchItem {
    FetchItem {
        position: job.position,
        slot: own.slot_of(&job.identity.key, job.hash),
        key: job.identity.key,
        written: records.written(&job.identity.key, job.hash).collect(),
    }
}

/// What a job did, until the store has it.
struct Settle<P: 'static> {
    cx: Cx<P>,
    is_noted: bool,
}

impl<P: Protections> Future for Settle<P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut inner = this.cx.env.inner();
        let inner = &mut *inner;
        let job = &mut inner.jobs[this.cx.slot];
        if !std::mem::replace(&mut this.is_noted, true) {
            if !job.unsettled && job.counted == 0 && job.pairs == 0 {
                return Poll::Ready(());
            }
            // It has done all it does: it holds no order back.
            job.ordered = [DONE; ORDERED_MAX];
            job.waits_for = Some((Wait::Settled, false));
            inner.unsettled.push(this.cx.slot);
            inner.settling_jobs += 1;
            inner.round_trips += 1;
        }
        if job.waits_for.is_some() { Poll::Pending } else { Poll::Ready(()) }
    }
}

/// A pause.
pub(super) struct Pause<P: 'static> {
    pub(super) cx: Cx<P>,
    pub(super) duration: Option<Duration>,
}

impl<P: Protections> Future for Pause<P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut inner = this.cx.env.inner();
        let inner = &mut *inner;
        let job = &mut inner.jobs[this.cx.slot];
        if let Some(duration) = this.duration.take().filter(|d| !d.is_zero()) {
            job.paused = true;
            inner.paused += 1;
            inner.pauses.push((job.position, duration));
        }
        if job.paused { Poll::Pending } else { Poll::Ready(()) }
    }
}
