//! Runs a compiled chain between live interfaces until it is told to end: makes the changes that are asked for, one at a
//! time, and keeps account of failures.

use super::changes;
use super::cluster::{Cluster, collect, kill, shutdown, start};
use super::compile::ChainPlan;
use super::kept;
use super::recoveries::{Recoveries, Recovery};
use super::run::{RunOptions, RunOutcome};
use super::wire::{Notice, RootControl};
use crate::control::feed::Feed;
use crate::control::server::{self, Endpoints};
use crate::control::view::{Interfaces, View};
use crate::control::{Change, Refused, Request};
use crate::egress::core::Sink;
use crate::messages::RootEvent;
use crate::root::actor::RootReport;
use crate::root::reader::{PacketSource, RootOptions};
use crate::routing::{Repartition, Route};
use anyhow::{Context as _, anyhow, bail};
use chc_api::VertexId;
use chc_runtime::service;
use flume::{Receiver, Selector, Sender};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often failures are looked for when nothing else happens.
const PERIOD: Duration = Duration::from_millis(50);
/// Longest wait for an actor's start.
const START_WITHIN: Duration = Duration::from_secs(60);
/// Changes that may wait.
const REQUESTS_MAX: usize = 64;

/// How a chain is to be run.
pub struct UpOptions {
    /// Where it is controlled.
    pub endpoints: Endpoints,
    /// The directory its state is left in.
    pub keep_in: Option<PathBuf>,
    /// The interfaces it lies between.
    pub interfaces: Interfaces,
    /// What counts alerts.
    pub alerts: Arc<Mutex<u64>>,
    /// What has the events for those who follow them.
    pub feed: Arc<Mutex<Feed>>,
}

/// Whoever waits for what came of a change.
type Reply = Sender<Result<Value, Refused>>;

enum Incoming {
    Notice(Notice),
    Request(Request),
    Ended,
}

/// A chain that runs, and what is under way.
struct Live<'a> {
    plan: &'a ChainPlan,
    cluster: Cluster,
    view: Arc<View>,
    recoveries: Recoveries,
    /// Those who killed an actor, until it is recovered.
    killers: Vec<(String, Reply)>,
    /// Those who asked for the end.
    enders: Vec<Reply>,
    ends: bool,
    /// The service manager is to be told that the chain is there, and that it lives.
    manager: Manager,
}

/// What the service manager is told.
struct Manager {
    is_ready: bool,
    /// How often it is told that the chain lives, if it asks for that, and when it was.
    often: Option<Duration>,
    told: Instant,
}

impl Manager {
    fn new() -> Self {
        let often = service::watchdog().map(|within| within / 2);
        Self { is_ready: false, often, told: Instant::now() }
    }

    /// Tells it, when it is time, and if the chain's actors themselves answer.
    fn tell(&mut self, view: &View) {
        let is_due = self.often.is_some_and(|often| self.told.elapsed() >= often);
        if self.is_ready && !is_due {
            return;
        }
        let Ok(status) = view.status() else { return };
        if !self.is_ready && status.phase == "up" {
            self.is_ready = true;
            service::ready();
        }
        if is_due {
            self.told = Instant::now();
            service::alive();
        }
    }
}

/// Runs a chain until it is told to end and everything it has accepted has left. `started` is called when it can be seen
/// from outside, with what ends it; `report` makes the answer to who asked for the end.
///
/// # Errors
/// If the chain could not be started, or gave up.
pub fn up<S: PacketSource, K: Sink + Send + 'static>(
    plan: &ChainPlan,
    source: S,
    sink: K,
    options: UpOptions,
    started: impl FnOnce(Box<dyn FnOnce() + Send>),
    report: impl FnOnce(&RunOutcome) -> Value,
) -> anyhow::Result<RunOutcome> {
    let root_options = RootOptions { burst: plan.burst, rate: None, stops: Vec::new() };
    let cluster = start(plan, source, sink, root_options, false)?;
    let mut recoveries = Recoveries::default();
    await_root(plan, &cluster, &mut recoveries)?;
    let view = cluster.view(plan, Some(options.interfaces), options.alerts, options.feed);
    let (ask, requests) = flume::bounded(REQUESTS_MAX);
    let server = server::start(&options.endpoints, view.clone(), Some(ask.clone()))?;
    // It ends when it is told to, not when there is nobody left who could.
    let _asking = ask.clone();
    let end = move || {
        let (reply, _) = flume::bounded(1);
        // Refused only if the chain ends anyway.
        let _ = ask.try_send(Request { change: Change::Down {}, reply });
    };
    started(Box::new(end));
    let mut live = Live {
        plan,
        cluster,
        view,
        recoveries,
        killers: Vec::new(),
        enders: Vec::new(),
        ends: false,
        manager: Manager::new(),
    };
    let root = live.serve(&requests)?;
    live.recoveries.settle(plan, &live.cluster.news, &live.cluster.notices)?;
    live.tell_recovered();
    let run = RunOptions { keep_in: options.keep_in, ..RunOptions::default() };
    let mut outcome = collect(plan, &live.cluster, &run)?;
    if let Some(dir) = &run.keep_in {
        kept::keep(dir, plan, &outcome.state)?;
    }
    outcome.root = root;
    outcome.recoveries = live.view.recoveries();
    let told = report(&outcome);
    for reply in live.enders.drain(..) {
        // Whoever asked may have gone.
        let _ = reply.send(Ok(told.clone()));
    }
    drop(requests);
    drop(server);
    shutdown(live.cluster)?;
    Ok(outcome)
}

/// Waits until there is somebody to ask.
fn await_root(plan: &ChainPlan, cluster: &Cluster, recoveries: &mut Recoveries) -> anyhow::Result<()> {
    while cluster.addresses.first_root().is_none() {
        let event = cluster.news.recv_timeout(START_WITHIN).context("the chain does not start")?;
        recoveries.event(plan, &event)?;
    }
    Ok(())
}

impl Live<'_> {
    /// Serves until everything is finished and logged.
    fn serve(&mut self, requests: &Receiver<Request>) -> anyhow::Result<RootReport> {
        loop {
            let next = {
                let selector = Selector::new()
                    .recv(&self.cluster.notices, |notice| notice.map_or(Incoming::Ended, Incoming::Notice))
                    .recv(requests, |request| request.map_or(Incoming::Ended, Incoming::Request));
                selector.wait_timeout(PERIOD)
            };
            self.recoveries.hear(self.plan, &self.cluster.news)?;
            match next {
                Ok(Incoming::Notice(Notice::CaughtUp { instance, replayed, at, .. })) => {
                    self.recoveries.caught_up(self.plan, instance, replayed, at);
                }
                Ok(Incoming::Notice(Notice::Defect { instance, reason })) => {
                    let vertex = &self.plan.vertices[usize::from(instance.vertex.0)].name;
                    bail!("vertex {vertex} is stopped: {reason}")
                }
                Ok(Incoming::Notice(Notice::Done(report))) => {
                    if let Some(error) = &report.input_error {
                        tracing::error!("the interfaces cannot be read any more: {error}");
                    }
                    return Ok(*report);
                }
                Ok(Incoming::Notice(Notice::Stopped)) | Err(_) => {}
                Ok(Incoming::Request(request)) => self.on_request(request),
                Ok(Incoming::Ended) => bail!("the chain's actors have ended"),
            }
            self.tell_recovered();
            self.manager.tell(&self.view);
        }
    }

    /// Tells those who killed an actor that it has been recovered.
    fn tell_recovered(&mut self) {
        let finished: Vec<Recovery> = self.recoveries.take_finished();
        for recovery in finished {
            tracing::info!("{} was recovered in {} us", recovery.actor, recovery.recovered_us);
            self.view.recovered(&recovery);
            for (_, reply) in self.killers.extract_if(.., |(actor, _)| *actor == recovery.actor) {
                // Whoever asked may have gone.
                let _ = reply.send(Ok(json!({ "recovered": recovery })));
            }
        }
    }

    fn on_request(&mut self, Request { change, reply }: Request) {
        let answer = match change {
            Change::Down {} => return self.end(reply),
            _ if self.ends => Err(Refused::NotNow("the chain ends".into())),
            Change::Kill { actor } => match self.kill(&actor) {
                Ok(name) => return self.killers.push((name, reply)),
                Err(refused) => Err(refused),
            },
            Change::Scale { vertex, instances } => self.repartition(&vertex, |route, _| {
                changes::scale(instances, route.instances)
                    .map_err(|problem| format!("{problem} (policy.instances_max sets the most)"))
            }),
            Change::Move { vertex, from, to, share } => {
                self.repartition(&vertex, |route, _| changes::moves(&vertex, route, from, to, share))
            }
            Change::Drain { instance } => self.drain(&instance),
        };
        // Whoever asked may have gone.
        let _ = reply.send(answer);
    }

    fn end(&mut self, reply: Reply) {
        self.enders.push(reply);
        if std::mem::replace(&mut self.ends, true) {
            return;
        }
        service::stopping();
        self.view.end();
        if let Some(root) = self.cluster.addresses.first_root()
            && let Err(lost) = root.send(RootControl::Shut)
        {
            tracing::error!("the root cannot be told to end: {lost}");
        }
    }

    fn owners(&self, vertex: VertexId) -> Vec<u16> {
        self.cluster.addresses.owners[usize::from(vertex.0)].lock().clone()
    }

    /// Kills an actor; its full name.
    fn kill(&mut self, actor: &str) -> Result<String, Refused> {
        // One that has lost its traffic lives on, and can be killed as well.
        let used = |route: &Route| route.instances;
        let (vertex, child) = changes::victim(self.plan, actor, used).map_err(Refused::Mistake)?;
        let name = (format!("chain/{vertex}"), child);
        if self.recoveries.down.contains(&name) || self.recoveries.expected.contains_key(&name) {
            return Err(Refused::NotNow(format!("{actor} is down already")));
        }
        kill(&self.cluster, &name).map_err(|error| Refused::NotNow(format!("{error:#}")))?;
        let full = format!("{vertex}/{}", name.1);
        self.recoveries.expected.insert(name, std::time::Instant::now());
        Ok(full)
    }

    fn drain(&mut self, instance: &str) -> Result<Value, Refused> {
        let parts = instance.split_once('/').and_then(|(vertex, index)| Some((vertex, index.parse().ok()?)));
        let Some((vertex, index)) = parts else {
            return Err(Refused::Mistake(format!("\"{instance}\" is no instance; give one as nat/0")));
        };
        self.repartition(vertex, |_, owners| changes::drain(owners, index))
    }

    /// Has slots change hands.
    fn repartition(
        &mut self,
        vertex: &str,
        how: impl FnOnce(&Route, &[u16]) -> Result<Repartition, String>,
    ) -> Result<Value, Refused> {
        let route = changes::route(self.plan, vertex).map_err(Refused::Mistake)?;
        let how = how(route, &self.owners(route.vertex)).map_err(Refused::Mistake)?;
        let told = |root: anyhow::Result<()>| root.map_err(|error| Refused::NotNow(format!("{error:#}")));
        told(self.tell_root(RootEvent::Repartition(route.vertex, how)))?;
        Ok(json!({ "vertex": vertex }))
    }

    fn tell_root(&self, event: RootEvent) -> anyhow::Result<()> {
        let root = self.cluster.addresses.first_root().ok_or_else(|| anyhow!("the root has ended"))?;
        root.send(RootControl::Event(event)).map_err(|lost| anyhow!("{lost}"))
    }
}
