//! How a TCP connection closes, as a translator of its packets sees it.

use chc_api::packet::tcp;

/// A FIN of the side that began the connection was seen.
pub(crate) const FIN_OUT: u16 = 1;
/// A FIN of the other side.
pub(crate) const FIN_IN: u16 = 2;
/// A RST, or both FINs.
pub(crate) const CLOSED: u16 = 4;
/// The side that began is the high end of the key.
pub(crate) const FROM_HIGH: u16 = 8;

/// The state of a connection after a segment with these flags (0 for other protocols), sent by the side whose
/// FIN `fin` is. The side that began may use the same ports again before all is forgotten.
#[inline]
pub(crate) fn after(state: u16, tcp_flags: u8, fin: u16) -> u16 {
    let control = tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN);
    if control & tcp::RST != 0 {
        state | CLOSED
    } else if control & tcp::FIN != 0 {
        let both = (state | fin) & (FIN_OUT | FIN_IN) == FIN_OUT | FIN_IN;
        state | fin | if both { CLOSED } else { 0 }
    } else if control == tcp::SYN && fin == FIN_OUT && state & CLOSED != 0 {
        state & FROM_HIGH
    } else {
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_or_a_fin_of_each_side_closes_and_a_syn_opens_again() {
        assert_eq!(after(FROM_HIGH, tcp::RST, FIN_IN), FROM_HIGH | CLOSED);
        let half = after(0, tcp::FIN | tcp::ACK, FIN_OUT);
        assert_eq!((half, after(half, tcp::FIN, FIN_OUT)), (FIN_OUT, FIN_OUT));
        let closed = after(half, tcp::FIN | tcp::ACK, FIN_IN);
        assert_eq!(closed, FIN_OUT | FIN_IN | CLOSED);
        assert_eq!(after(closed | FROM_HIGH, tcp::SYN, FIN_OUT), FROM_HIGH);
        assert_eq!([tcp::SYN, tcp::ACK].map(|flags| after(closed, flags, FIN_IN)), [closed; 2]);
    }
}
