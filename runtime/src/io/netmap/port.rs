//! What the name of a port stands for, written as netmap's manual page has it.
//!
//! | name | what |
//! |---|---|
//! | `eth0` | all hardware rings of an interface |
//! | `eth0^` | its host rings: what the machine's own stack sends there comes in, and what is sent is for that stack |
//! | `vale0:a` | port `a` of the switch `vale0` in the kernel, made when it is first opened |
//! | `p{1`, `p}1` | the two ends of pipe 1 of `p` |

use crate::io::Mac;

/// Which rings of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rings {
    Hardware,
    Host,
}

/// The name that netmap knows, and which of its rings are meant.
pub(super) fn parse(name: &str) -> (&str, Rings) {
    match name.strip_suffix('^') {
        Some(interface) => (interface, Rings::Host),
        None => (name, Rings::Hardware),
    }
}

/// The interface whose host rings a name stands for.
#[must_use]
pub fn host_of(name: &str) -> Option<&str> {
    let (interface, rings) = parse(name);
    (rings == Rings::Host).then_some(interface)
}

/// Whether a name is of a port that only netmap knows: host rings, or a port of a switch or a pipe.
#[must_use]
pub fn is_netmaps_own(name: &str) -> bool {
    let is_of_switch = name.starts_with("vale") && name.contains(':');
    host_of(name).is_some() || is_of_switch || is_pipe(name)
}

/// Whether a name is of an end of a pipe.
pub(super) fn is_pipe(name: &str) -> bool {
    name.contains(['{', '}'])
}

/// The Ethernet address of a router at such a port, which has none of its own: always the same, of those that are given
/// locally.
#[must_use]
pub fn address_of(name: &str) -> Mac {
    let mut mac = [2u8, 0, 0, 0, 0, 0];
    for (at, byte) in name.bytes().enumerate() {
        let to = &mut mac[1 + at % 5];
        *to = to.rotate_left(3) ^ byte;
    }
    Mac(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_rings_of_which_port() {
        assert_eq!(parse("eth0"), ("eth0", Rings::Hardware));
        assert_eq!(parse("eth0^"), ("eth0", Rings::Host));
        assert_eq!((host_of("eth0^"), host_of("eth0")), (Some("eth0"), None));
        let names = ["vale0:a", "valex:1", "p{1", "p}1", "vale0:a{2", "eth0^", "eth0", "vale0", "eth0:1"];
        assert_eq!(names.map(is_netmaps_own), [true, true, true, true, true, true, false, false, false]);
    }

    #[test]
    fn ports_have_different_addresses_of_one_station_given_locally() {
        let all = ["vale0:a", "vale0:b", "vale1:a", "p{1", "p}1"].map(address_of);
        for (at, Mac([first, ..])) in all.iter().enumerate() {
            assert_eq!(first & 3, 2);
            assert!(!all[..at].contains(&all[at]));
        }
    }
}
