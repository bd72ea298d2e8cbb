//! Hosts of a test's own: network namespaces, joined to this machine by veth pairs.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::Command;

/// Two hosts, and the interfaces of this machine that lead to them.
pub struct Hosts {
    tag: String,
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|e| format!("ip: {e}"))?;
    let said = || format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    output.status.success().then_some(()).ok_or_else(said)
}

impl Hosts {
    /// Makes them, with the names of interfaces and namespaces beginning with `tag`, which has at most ten letters.
    ///
    /// # Errors
    /// If this machine or user cannot: the reason.
    pub fn new(tag: &str) -> Result<Self, String> {
        let hosts = Self { tag: tag.to_owned() };
        hosts.remove();
        for host in ["a", "b"] {
            ip(&format!("netns add {tag}-{host}"))?;
            ip(&format!("-n {tag}-{host} link set lo up"))?;
            ip(&format!("link add {tag}{host}1 type veth peer name {tag}{host}0 netns {tag}-{host}"))?;
            ip(&format!("link set {tag}{host}1 addrgenmode none"))?;
            ip(&format!("link set {tag}{host}1 up"))?;
            ip(&format!("-n {tag}-{host} link set {tag}{host}0 up"))?;
        }
        Ok(hosts)
    }

    /// The interface of this machine that leads to a host, `a` or `b`.
    #[must_use]
    pub fn interface(&self, host: &str) -> String {
        format!("{}{host}1", self.tag)
    }

    /// Joins the hosts: the machine's interface that leads to `a` becomes host `b`'s second one; its name.
    ///
    /// # Panics
    /// If it is refused.
    pub fn join(&self) -> String {
        let interface = self.interface("a");
        let moved = ip(&format!("link set {interface} netns {}-b", self.tag));
        moved.and_then(|()| ip(&format!("-n {}-b link set {interface} up", self.tag))).expect("it is ours");
        interface
    }

    /// Has a host configured by `ip`; `DEV` stands for its interface.
    ///
    /// # Errors
    /// If it is refused: the reason.
    pub fn try_configure(&self, host: &str, arguments: &str) -> Result<(), String> {
        let interface = format!("{}{host}0", self.tag);
        ip(&format!("-n {}-{host} {}", self.tag, arguments.replace("DEV", &interface)))
    }

    /// The same, of what no host refuses.
    ///
    /// # Panics
    /// If it is refused.
    pub fn configure(&self, host: &str, arguments: &str) {
        self.try_configure(host, arguments).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Runs `work` on a thread of a host.
    pub fn on<T: Send + 'static>(
        &self,
        host: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let path = format!("/run/netns/{}-{host}", self.tag);
        std::thread::spawn(move || {
            let namespace = File::open(&path).expect("the host exists");
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).expect("we made it");
            work()
        })
    }

    fn remove(&self) {
        for host in ["a", "b"] {
            // They may not be there.
            let _ = ip(&format!("link del {}{host}1", self.tag));
            let _ = ip(&format!("netns del {}-{host}", self.tag));
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.remove();
    }
}
