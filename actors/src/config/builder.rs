//! A chain in code, checked like a file.

use super::check;
use super::diagnostic::{Diagnostics, Place, Report};
use super::file::Node;
use super::model::{
    ApiConfig, ChainConfig, Edge, EgressConfig, IoConfig, PolicyConfig, RootConfig, RuntimeConfig,
    StoreConfig, VertexConfig,
};
use crate::functions::NfRegistry;
use crate::manager::policy::Load;
use chc_api::state::FIRST_OUTPUT;
use std::sync::Arc;

/// Builds a chain in code; [`build`](Self::build) applies the checks of a chain file.
///
/// ```
/// use chc_actors::config::ChainBuilder;
/// use chc_actors::functions::Catalog;
///
/// let chain = ChainBuilder::new("enterprise")
///     .vertex("nat", "nat", |v| v.instances(2).config(serde_json::json!({ "external": ["203.0.113.1"] })))
///     .next("portscan")
///     .vertex("portscan", "portscan", |v| v)
///     .build(&Catalog)?;
/// assert_eq!(chain.entry[0].to, "nat");
/// # Ok::<(), chc_actors::config::Diagnostics>(())
/// ```
#[derive(Clone, Debug)]
pub struct ChainBuilder {
    draft: ChainConfig,
}

/// One vertex under construction.
#[derive(Clone, Debug)]
pub struct VertexBuilder {
    draft: VertexConfig,
}

impl ChainBuilder {
    /// An empty chain called `name`, with the defaults of a chain file.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            draft: ChainConfig {
                name: name.into(),
                entry: Vec::new(),
                vertices: Vec::new(),
                root: RootConfig::default(),
                store: StoreConfig::default(),
                egress: EgressConfig::default(),
                io: IoConfig::default(),
                api: ApiConfig::default(),
                runtime: RuntimeConfig::default(),
            },
        }
    }

    /// Adds the vertex `name` running the network function `nf`.
    #[must_use]
    pub fn vertex(
        mut self,
        name: impl Into<String>,
        nf: impl Into<String>,
        with: impl FnOnce(VertexBuilder) -> VertexBuilder,
    ) -> Self {
        self.draft.vertices.push(with(VertexBuilder { draft: VertexConfig::new(name, nf) }).draft);
        self
    }

    /// Leads from the vertex added last to the vertex `to`. Before the first vertex it names the chain's
    /// entry, which otherwise is the first vertex.
    #[must_use]
    pub fn next(mut self, to: impl Into<String>) -> Self {
        let edge = Edge::new(to);
        match self.draft.vertices.last_mut() {
            Some(vertex) => vertex.next.push(FIRST_OUTPUT, edge),
            None => self.draft.entry.push(edge),
        }
        self
    }

    /// Adds an entry: packets that match take it, if no entry before did.
    #[must_use]
    pub fn entry(mut self, edge: Edge) -> Self {
        self.draft.entry.push(edge);
        self
    }

    /// Replaces the settings of the root.
    #[must_use]
    pub fn root(mut self, root: RootConfig) -> Self {
        self.draft.root = root;
        self
    }

    /// Replaces the settings of the store.
    #[must_use]
    pub fn store(mut self, store: StoreConfig) -> Self {
        self.draft.store = store;
        self
    }

    /// Replaces the settings of packet input and output.
    #[must_use]
    pub fn io(mut self, io: IoConfig) -> Self {
        self.draft.io = io;
        self
    }

    /// Replaces the settings of threads and limits.
    #[must_use]
    pub fn runtime(mut self, runtime: RuntimeConfig) -> Self {
        self.draft.runtime = runtime;
        self
    }

    /// The chain, if every check passes; otherwise every mistake, at `chain NAME`.
    pub fn build(mut self, registry: &dyn NfRegistry) -> Result<ChainConfig, Diagnostics> {
        let mut report = Report::default();
        if let (true, Some(first)) = (self.draft.entry.is_empty(), self.draft.vertices.first()) {
            self.draft.entry.push(Edge::new(&first.name));
        }
        for (i, vertex) in self.draft.vertices.iter().enumerate() {
            if self.draft.vertices[..i].iter().any(|earlier| earlier.name == vertex.name) {
                let key = format!("vertex.{}", vertex.name);
                report.push(
                    Place::Whole,
                    key,
                    "two vertices have this name",
                    "name every vertex differently",
                );
            }
        }
        for vertex in &self.draft.vertices {
            let (code, text) = (&vertex.policy_code, vertex.policy.clone().unwrap_or_default());
            let twice = [
                ("scale_up", code.scale_up.is_some() && text.scale_up.is_some()),
                ("scale_down", code.scale_down.is_some() && text.scale_down.is_some()),
            ];
            for (key, _) in twice.iter().filter(|(_, twice)| *twice) {
                let key = format!("vertex.{}.policy.{key}", vertex.name);
                report.push(Place::Whole, key, "a condition in code and one in CEL", "give one of the two");
            }
        }
        let mut chain = check::check(&Node::from_json(&self.draft.to_json()), registry, &mut report);
        for vertex in &mut chain.vertices {
            let draft = self.draft.vertices.iter().find(|draft| draft.name == vertex.name);
            vertex.policy_code = draft.map(|draft| draft.policy_code.clone()).unwrap_or_default();
        }
        if report.is_empty() {
            return Ok(chain);
        }
        Err(report.into_diagnostics(&format!("chain {}", self.draft.name), &[]))
    }
}

impl VertexBuilder {
    /// Running copies at the start.
    #[must_use]
    pub fn instances(mut self, instances: u16) -> Self {
        self.draft.instances = instances;
        self
    }

    /// Adds an edge from one of the function's outputs.
    #[must_use]
    pub fn next(mut self, output: &str, edge: Edge) -> Self {
        self.draft.next.push(output, edge);
        self
    }

    /// Sends copies of what leaves.
    #[must_use]
    pub fn copy(mut self, edge: Edge) -> Self {
        self.draft.copy.push(edge);
        self
    }

    /// Sends copies of what enters.
    #[must_use]
    pub fn copy_in(mut self, edge: Edge) -> Self {
        self.draft.copy_in.push(edge);
        self
    }

    /// Shares the traffic is cut into.
    #[must_use]
    pub fn slots(mut self, slots: u16) -> Self {
        self.draft.slots = slots;
        self
    }

    /// When the vertex gets an instance more or one less.
    #[must_use]
    pub fn policy(mut self, policy: PolicyConfig) -> Self {
        self.draft.policy = Some(policy);
        self
    }

    /// Code in place of the policy's `scale_up`, called with the load of each period.
    #[must_use]
    pub fn scale_up_when(mut self, holds: impl Fn(&Load) -> bool + Send + Sync + 'static) -> Self {
        self.draft.policy_code.scale_up = Some(Arc::new(holds));
        self
    }

    /// Code in place of the policy's `scale_down`.
    #[must_use]
    pub fn scale_down_when(mut self, holds: impl Fn(&Load) -> bool + Send + Sync + 'static) -> Self {
        self.draft.policy_code.scale_down = Some(Arc::new(holds));
        self
    }

    /// The network function's own keys, an object.
    #[must_use]
    pub fn config(mut self, config: serde_json::Value) -> Self {
        self.draft.config = config;
        self
    }
}
