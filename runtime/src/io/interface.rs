//! What the system says of its interfaces.

use super::OpenError;
use super::socket::{self, PacketSocket};
use std::fmt;
use std::io;
use std::net::IpAddr;

/// An Ethernet address.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// To everybody on the wire.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it is a group's.
    #[must_use]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An interface, as it was when it was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Its address.
    pub mac: Mac,
    /// Longest packet it takes, in bytes behind the Ethernet header.
    pub mtu: u32,
    /// Whether it is switched on and has a carrier.
    pub is_up: bool,
}

impl Interface {
    /// Looks an Ethernet interface up.
    ///
    /// # Errors
    /// If there is none, or it is of another kind.
    pub fn find(name: &str) -> Result<Self, OpenError> {
        let Some(index) = socket::index_of(name) else {
            let available = Self::names().join(", ");
            return Err(OpenError::NoInterface { name: name.to_owned(), available });
        };
        let facts = socket::facts(name).map_err(|e| OpenError::of(name, "asking for its address", e))?;
        if !facts.is_ethernet {
            return Err(OpenError::NotEthernet { name: name.to_owned() });
        }
        let (mac, mtu, is_up) = (Mac(facts.mac), facts.mtu, facts.is_up);
        Ok(Self { name: name.to_owned(), index, mac, mtu, is_up })
    }

    /// The machine's own addresses on it.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        socket::addresses(&self.name)
    }

    /// Whether the machine's stack leaves checksums to the hardware of an interface of this name.
    #[must_use]
    pub fn leaves_checksums(name: &str) -> bool {
        // One whose driver cannot say so has no such hardware.
        socket::tx_checksums(name).unwrap_or(false)
    }

    /// The names of all interfaces.
    #[must_use]
    pub fn names() -> Vec<String> {
        let mut names = socket::names();
        names.sort_unstable();
        names
    }
}

/// An interface that takes frames for other hosts, too, for as long as this lives, and cannot be opened again once privileges are
/// given up.
pub(super) struct Held {
    name: String,
    index: u32,
    /// Gets nothing.
    _promiscuous: PacketSocket,
    is_gone: bool,
    /// What its card had missed when it was opened.
    missed: u64,
}

impl Held {
    pub(super) fn new(name: &str, index: u32) -> Result<Self, OpenError> {
        let promiscuous =
            || PacketSocket::new().and_then(|socket| socket.be_promiscuous(index).map(|()| socket));
        let socket =
            promiscuous().map_err(|e| OpenError::of(name, "having it take frames for other hosts", e))?;
        let (name, missed) = (name.to_owned(), missed(name).unwrap_or(0));
        Ok(Self { name, index, _promiscuous: socket, is_gone: false, missed })
    }

    /// Looks whether it is still there.
    pub(super) fn look(&mut self) {
        self.is_gone |= !socket::is_there(self.index);
    }

    /// Frames that the card has had no room for since; none once it is gone.
    pub(super) fn missed(&self) -> Option<u64> {
        missed(&self.name).map(|now| now.saturating_sub(self.missed))
    }

    /// # Errors
    /// If it was not there.
    pub(super) fn check(&self) -> io::Result<()> {
        if !self.is_gone {
            return Ok(());
        }
        let name = &self.name;
        Err(io::Error::other(format!("interface {name} is gone; start the chain again when it is back")))
    }
}

/// Frames that an interface's card has had no room for, if its driver counts them.
fn missed(name: &str) -> Option<u64> {
    let counts = std::fs::read_to_string(format!("/sys/class/net/{name}/statistics/rx_missed_errors"));
    counts.ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_interface_is_named_with_those_there_are() {
        let error = Interface::find("no-such-if").expect_err("there is none");
        assert!(error.to_string().contains("lo"), "{error}");
    }

    #[test]
    fn the_addresses_of_an_interface_are_known() {
        let found = socket::addresses("lo");
        assert!(found.contains(&IpAddr::from([127, 0, 0, 1])), "{found:?}");
        assert!(socket::addresses("no-such-if").is_empty());
    }

    #[test]
    fn an_interface_is_gone_if_none_has_its_number() {
        let loopback = socket::index_of("lo").expect("there is one");
        assert!(socket::is_there(loopback) && !socket::is_there(u32::MAX / 2));
    }

    #[test]
    fn the_loopback_needs_no_checksums() {
        assert!(Interface::leaves_checksums("lo") && !Interface::leaves_checksums("no-such-if"));
    }

    #[test]
    fn what_was_missed_is_known_of_what_there_is() {
        assert_eq!((missed("lo"), missed("no-such-if")), (Some(0), None));
    }

    #[test]
    fn the_loopback_is_no_ethernet() {
        assert!(matches!(Interface::find("lo"), Err(OpenError::NotEthernet { .. })));
    }

    #[test]
    fn addresses_are_written_as_everybody_does() {
        assert_eq!(Mac([2, 0, 0xab, 0, 0, 0xff]).to_string(), "02:00:ab:00:00:ff");
    }
}
