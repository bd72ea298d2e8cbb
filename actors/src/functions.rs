//! The network functions a chain can be built of: those of the catalog, and any that a program registers.
//!
//! A function is known by name. Its configuration is a table of keys that it reads itself; what it declares
//! follows from them. Whoever checks a chain file asks for problems and declarations; the compiler gets
//! everything that depends on the function's type with the type forgotten.

use crate::ideal::IdealChain;
use crate::instance::core::{Instance, InstanceConfig, build};
use crate::routing::{ConnectionSlotFn, OwnerFn};
use chc_api::{All, Declarations, FlowKey, Identity, NetworkFunction, VertexId};
use chc_nf_catalog::{ConfigProblem, Visitor};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Makes an instance of a vertex's network function.
pub type InstanceFactory = Arc<dyn Fn(InstanceConfig) -> Box<dyn Instance> + Send + Sync>;
/// Appends a vertex with the function to an ideal chain.
pub type IdealFactory = Arc<dyn Fn(&mut IdealChain, VertexId) + Send + Sync>;

/// A configured function whose type is forgotten.
#[derive(Clone)]
pub struct Function {
    /// What it declares.
    pub declarations: Declarations,
    /// Whether it translates addresses.
    pub translates: bool,
    /// Whose slot an address is that it gave out, if it translates.
    pub owner: Option<OwnerFn>,
    /// The slot of a connection, if it does not go by its hash.
    pub connection_slot: Option<ConnectionSlotFn>,
    /// Makes its instances.
    pub factory: InstanceFactory,
    /// Makes it part of an ideal chain.
    pub ideal: IdealFactory,
}

/// Where functions are found by name.
pub trait NfRegistry {
    /// The names a vertex's `nf` can have.
    fn names(&self) -> Vec<&str>;
    /// Function `nf`, one of [`names`](Self::names), with the table `config`, for a vertex of `slots` slots whose
    /// hashes have this seed.
    ///
    /// # Errors
    /// Every mistake in the table. A problem's key is a path within it, such as `external` or
    /// `services[1].match`.
    fn function(
        &self,
        nf: &str,
        config: &Value,
        slots: u16,
        seed: u64,
    ) -> Result<Function, Vec<ConfigProblem>>;
}

/// The functions that come with this program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Catalog;

impl NfRegistry for Catalog {
    fn names(&self) -> Vec<&str> {
        chc_nf_catalog::names().to_vec()
    }

    fn function(
        &self,
        nf: &str,
        config: &Value,
        slots: u16,
        seed: u64,
    ) -> Result<Function, Vec<ConfigProblem>> {
        chc_nf_catalog::with(nf, config, slots, seed, Forget)
    }
}

type Make = Box<dyn Fn(&Value, u16, u64) -> Result<Function, Vec<ConfigProblem>> + Send + Sync>;

/// The catalog, and what a program adds to it.
///
/// ```
/// use chc_actors::functions::{NfRegistry, Registry};
/// use chc_api::{Context, Declarations, NetworkFunction, Verdict};
///
/// #[derive(Clone)]
/// struct Nothing;
/// impl NetworkFunction for Nothing {
///     async fn packet<C: Context>(&self, _: C) -> Verdict {
///         Verdict::Forward
///     }
/// }
///
/// let registry = Registry::new().register("nothing", |_keys, _slots, _seed, _declarations| Ok(Nothing));
/// assert!(registry.names().contains(&"nothing") && registry.names().contains(&"nat"));
/// ```
#[derive(Default)]
pub struct Registry {
    own: BTreeMap<String, Make>,
}

impl Registry {
    /// The catalog alone.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a function, in place of one of that name. `make` reads its keys, declares its state and outputs, and
    /// makes it; it is given the vertex's slots and the seed of the chain's hashes.
    #[must_use]
    pub fn register<N, F>(mut self, name: &str, make: F) -> Self
    where
        N: NetworkFunction + Clone,
        F: Fn(&Value, u16, u64, &mut Declarations) -> Result<N, Vec<ConfigProblem>> + Send + Sync + 'static,
    {
        let make: Make = Box::new(move |config, slots, seed| {
            let mut declarations = Declarations::default();
            let nf = make(config, slots, seed, &mut declarations)?;
            Ok(Forget.visit(move || nf.clone(), declarations))
        });
        self.own.insert(name.to_owned(), make);
        self
    }
}

impl NfRegistry for Registry {
    fn names(&self) -> Vec<&str> {
        let own = self.own.keys().map(String::as_str);
        let mut names: Vec<&str> = chc_nf_catalog::names().iter().copied().chain(own).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn function(
        &self,
        nf: &str,
        config: &Value,
        slots: u16,
        seed: u64,
    ) -> Result<Function, Vec<ConfigProblem>> {
        match self.own.get(nf) {
            Some(make) => make(config, slots, seed),
            None => Catalog.function(nf, config, slots, seed),
        }
    }
}

/// Forgets a function's type.
struct Forget;

impl Visitor for Forget {
    type Out = Function;

    fn visit<N: NetworkFunction>(
        self,
        make: impl Fn() -> N + Clone + Send + Sync + 'static,
        declarations: Declarations,
    ) -> Function {
        let owner = N::TRANSLATES.then(|| {
            let nf = make();
            Arc::new(move |identity: &Identity| nf.owner(identity)) as OwnerFn
        });
        let connection_slot = N::TRANSLATES.then(|| {
            let nf = make();
            Arc::new(move |key: &FlowKey| nf.connection_slot(key)) as ConnectionSlotFn
        });
        let (ideal, declared) = (make.clone(), declarations.clone());
        Function {
            declarations,
            translates: N::TRANSLATES,
            owner,
            connection_slot,
            factory: Arc::new(move |config| build::<N, All>(make(), config)),
            ideal: Arc::new(move |chain, id| chain.append(id).visit(ideal.clone(), declared.clone())),
        }
    }
}
