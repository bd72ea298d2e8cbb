//! The system calls packet I/O needs: the only place of it with `unsafe`.
//!
//! Every pointer given to the system is to memory that is borrowed for the length of the call, with its length beside it.
#![allow(unsafe_code)]

use super::{BATCH_MAX, Interface};
use std::ffi::{CStr, CString, c_int, c_void};
use std::fs::File;
use std::io;
use std::mem::{MaybeUninit, size_of, size_of_val};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An option of packet sockets that libc has no name for on all systems.
const PACKET_IGNORE_OUTGOING: c_int = 23;
/// Bits of a frame's status.
const VLAN_VALID: u32 = 1 << 4;
const VLAN_TPID_VALID: u32 = 1 << 6;
/// An EtherType nobody uses: bound to it, a socket gets nothing more.
const RESERVED_TYPE: u16 = 0xffff;
/// What the driver says about a frame's checksum and segments, in front of it.
pub(super) const OFFLOAD_LEN: usize = 10;
/// Longest frame a slot holds: the longest IP packet, and its Ethernet header with tags.
pub(super) const SLOT_LEN: usize = 65_536 + 64;
/// Bytes of frames that may wait in the system.
const BUFFER_BYTES: usize = 32 << 20;
/// Room in front of the frame for a VLAN tag the system took out.
pub(super) const TAG_LEN: usize = 4;

/// Room for one frame that comes in.
pub struct Slot {
    /// `TAG_LEN` bytes of room, then the frame.
    pub(super) bytes: Box<[u8]>,
    /// Length of the frame.
    pub(super) len: usize,
    /// What the driver says of it.
    pub(super) offload: [u8; OFFLOAD_LEN],
    /// Whether it was longer than its room.
    pub(super) is_cut: bool,
    /// The tag the system took out: EtherType and tag.
    pub(super) vlan: Option<(u16, u16)>,
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

impl Slot {
    /// Room for the longest frame there is.
    #[must_use]
    pub fn new() -> Self {
        let bytes = vec![0; TAG_LEN + SLOT_LEN].into_boxed_slice();
        Self { bytes, len: 0, offload: [0; OFFLOAD_LEN], is_cut: false, vlan: None }
    }

    /// The frame as the system had it: without the tag it took out, and perhaps with more to be done.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        &self.bytes[TAG_LEN..][..self.len.min(SLOT_LEN)]
    }
}

/// What the system says of an interface.
pub(super) struct Facts {
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    pub(super) is_up: bool,
    pub(super) is_ethernet: bool,
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The number of the interface of a name.
pub(super) fn index_of(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name is a terminated string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// Whether there is an interface of a number.
pub(super) fn is_there(index: u32) -> bool {
    let mut name = [0 as libc::c_char; libc::IFNAMSIZ];
    // SAFETY: there is room for a name of any length.
    let has_name = !unsafe { libc::if_indextoname(index, name.as_mut_ptr()) }.is_null();
    // Whoever cannot ask does not know.
    let code = || io::Error::last_os_error().raw_os_error();
    has_name || !matches!(code(), Some(libc::ENXIO | libc::ENODEV))
}

/// The names of all interfaces.
pub(super) fn names() -> Vec<String> {
    let mut names = Vec::new();
    // SAFETY: the list ends with an entry of number 0 and is given back to where it came from.
    unsafe {
        let list = libc::if_nameindex();
        if list.is_null() {
            return names;
        }
        let mut at = list;
        while (*at).if_index != 0 {
            names.push(CStr::from_ptr((*at).if_name).to_string_lossy().into_owned());
            at = at.add(1);
        }
        libc::if_freenameindex(list);
    }
    names
}

/// A request about an interface.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: all zeros is a value of this structure.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// A socket that requests about interfaces are made of.
fn asking() -> io::Result<OwnedFd> {
    // SAFETY: plain calls without pointers.
    let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Switches an interface on.
pub(super) fn switch_on(name: &str) -> io::Result<()> {
    let socket = asking()?;
    let mut request = request(name);
    // SAFETY: the structure is the one these requests read and write; the first fills the field that is changed.
    unsafe {
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &mut request))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &mut request)).map(drop)
    }
}

/// Makes a TAP interface, or takes hold of one; what is read and written has what [`OFFLOAD_LEN`] is for in front.
pub(super) fn tap(name: &str) -> io::Result<File> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name has 1 to 15 bytes"));
    }
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    // SAFETY: the structure is the one the first request reads and writes; the other takes a number.
    unsafe {
        check(libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request))?;
        check(libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(offloads)))?;
    }
    Ok(file)
}

/// Asks for the facts of an interface.
pub(super) fn facts(name: &str) -> io::Result<Facts> {
    let socket = asking()?;
    let ask = |what: libc::c_ulong| -> io::Result<libc::ifreq> {
        let mut request = request(name);
        // SAFETY: the structure is the one these requests read and write.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), what as _, &mut request) })?;
        Ok(request)
    };
    let (address, mtu, flags) =
        (ask(libc::SIOCGIFHWADDR as _)?, ask(libc::SIOCGIFMTU as _)?, ask(libc::SIOCGIFFLAGS as _)?);
    // SAFETY: each request has filled the field that is read here.
    let (address, mtu, flags) = unsafe {
        (address.ifr_ifru.ifru_hwaddr, mtu.ifr_ifru.ifru_mtu, c_int::from(flags.ifr_ifru.ifru_flags))
    };
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(address.sa_data) {
        *to = from as u8;
    }
    let up = libc::IFF_UP | libc::IFF_RUNNING;
    Ok(Facts {
        mac,
        mtu: u32::try_from(mtu).unwrap_or(0),
        is_up: flags & up == up,
        is_ethernet: address.sa_family == libc::ARPHRD_ETHER,
    })
}

/// Whether what an interface is given to send may lack its checksum.
pub(super) fn tx_checksums(name: &str) -> io::Result<bool> {
    /// What ethtool reads and writes for a yes or no (linux/ethtool.h: `struct ethtool_value`).
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    const GET_TX_CHECKSUMS: u32 = 0x16;
    let socket = asking()?;
    let (mut request, mut value) = (request(name), Value { command: GET_TX_CHECKSUMS, data: 0 });
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request points to the structure that this command reads and fills, which lives for the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &mut request) })?;
    Ok(value.data != 0)
}

/// The machine's own addresses on an interface.
pub(super) fn addresses(name: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let mut list = std::ptr::null_mut();
    // SAFETY: the system fills in the list's first entry, or says that it has not.
    if unsafe { libc::getifaddrs(&mut list) } != 0 {
        return addresses;
    }
    let mut at = list;
    while !at.is_null() {
        // SAFETY: the entries are the system's until they are given back; each is a terminated name and, if there is an
        // address, one of the family it says.
        unsafe {
            let entry = &*at;
            at = entry.ifa_next;
            if entry.ifa_addr.is_null() || CStr::from_ptr(entry.ifa_name).to_bytes() != name.as_bytes() {
                continue;
            }
            match c_int::from((*entry.ifa_addr).sa_family) {
                libc::AF_INET => {
                    let v4 = entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned().sin_addr.s_addr;
                    addresses.push(Ipv4Addr::from_bits(u32::from_be(v4)).into());
                }
                libc::AF_INET6 => {
                    let v6 = entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned().sin6_addr.s6_addr;
                    addresses.push(Ipv6Addr::from(v6).into());
                }
                _ => {}
            }
        }
    }
    // SAFETY: the list is the system's and nobody refers to it any more.
    unsafe { libc::freeifaddrs(list) };
    addresses
}

/// A packet socket: frames as the system has them.
pub struct PacketSocket {
    fd: OwnedFd,
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PacketSocket {
    /// A socket that gets nothing yet.
    pub(super) fn new() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: a plain call without pointers.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// A socket that gets the frames of an interface.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn receiving(interface: &Interface) -> io::Result<Self> {
        let socket = Self::sending(interface)?;
        socket.prepare_to_receive()?;
        socket.be_promiscuous(interface.index)?;
        socket.bind_to_all(interface.index)?;
        Ok(socket)
    }

    /// A socket that sends by an interface.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn sending(interface: &Interface) -> io::Result<Self> {
        let socket = Self::new()?;
        socket.set_buffers(BUFFER_BYTES);
        socket.bind_to_none(interface.index)?;
        Ok(socket)
    }

    /// Another descriptor of the same socket.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    fn set<T>(&self, level: c_int, option: c_int, value: &T) -> io::Result<()> {
        let (at, len) = ((&raw const *value).cast::<c_void>(), size_of_val(value) as libc::socklen_t);
        // SAFETY: the value is borrowed for the call, with its length.
        check(unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, option, at, len) }).map(drop)
    }

    /// Has frames come with what is needed to complete them, and none that this machine sends itself.
    pub(super) fn prepare_to_receive(&self) -> io::Result<()> {
        let on: c_int = 1;
        self.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, &on)?;
        self.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, &on)?;
        self.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &on)
    }

    /// Sets the bytes of frames that may wait in each direction, beyond the system's limit if this process may.
    pub(super) fn set_buffers(&self, bytes: usize) {
        let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
        for (beyond, within) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            if self.set(libc::SOL_SOCKET, beyond, &bytes).is_err() {
                // The default stays if this is refused as well.
                let _ = self.set(libc::SOL_SOCKET, within, &bytes);
            }
        }
    }

    /// Has the interface take frames for other hosts, for as long as this socket is open.
    pub(super) fn be_promiscuous(&self, index: u32) -> io::Result<()> {
        let request = libc::packet_mreq {
            mr_ifindex: index as c_int,
            mr_type: libc::PACKET_MR_PROMISC as _,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        self.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
    }

    fn bind(&self, index: u32, ether_type: u16) -> io::Result<()> {
        // SAFETY: all zeros is a value of this structure.
        let mut address: libc::sockaddr_ll = unsafe { MaybeUninit::zeroed().assume_init() };
        address.sll_family = libc::AF_PACKET as _;
        address.sll_protocol = ether_type.to_be();
        address.sll_ifindex = index as c_int;
        let (at, len) =
            ((&raw const address).cast::<libc::sockaddr>(), size_of_val(&address) as libc::socklen_t);
        // SAFETY: the address is borrowed for the call, with its length.
        check(unsafe { libc::bind(self.fd.as_raw_fd(), at, len) }).map(drop)
    }

    /// Gets all frames of an interface from now on.
    pub(super) fn bind_to_all(&self, index: u32) -> io::Result<()> {
        self.bind(index, libc::ETH_P_ALL as u16)
    }

    /// Gets no frames (any more), and sends by an interface.
    pub(super) fn bind_to_none(&self, index: u32) -> io::Result<()> {
        self.bind(index, RESERVED_TYPE)
    }

    /// Takes frames that wait, at most [`BATCH_MAX`]; how many.
    ///
    /// # Errors
    /// If none wait, or the interface is away.
    pub fn receive(&self, slots: &mut [Slot]) -> io::Result<usize> {
        #[repr(C, align(8))]
        struct Control([u8; 64]);
        let count = slots.len().min(BATCH_MAX);
        // Only as many as are needed are filled in: an idle chain takes one frame at a time, with cold caches.
        let mut controls = [const { MaybeUninit::<Control>::uninit() }; BATCH_MAX];
        let mut pieces = [const { MaybeUninit::<[libc::iovec; 2]>::uninit() }; BATCH_MAX];
        let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH_MAX];
        for (at, slot) in slots[..count].iter_mut().enumerate() {
            let room = &mut slot.bytes[TAG_LEN..];
            let pieces = pieces[at].write([
                libc::iovec { iov_base: slot.offload.as_mut_ptr().cast(), iov_len: OFFLOAD_LEN },
                libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() },
            ]);
            let header = &mut messages[at].write(empty_message()).msg_hdr;
            header.msg_iov = pieces.as_mut_ptr();
            header.msg_iovlen = 2;
            header.msg_control = controls[at].as_mut_ptr().cast();
            header.msg_controllen = size_of::<Control>() as _;
        }
        let (fd, flags) = (self.fd.as_raw_fd(), libc::MSG_DONTWAIT as _);
        // SAFETY: every message points at pieces and control room above and at the slots' own memory, all of which is
        // borrowed until the call returns.
        let taken = unsafe {
            libc::recvmmsg(fd, messages.as_mut_ptr().cast(), count as _, flags, std::ptr::null_mut())
        };
        let taken = check(taken)? as usize;
        for (slot, message) in slots[..count].iter_mut().zip(&messages).take(taken) {
            // SAFETY: the first `count` have been written.
            let message = unsafe { message.assume_init_ref() };
            slot.len = (message.msg_len as usize).saturating_sub(OFFLOAD_LEN);
            slot.is_cut = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            slot.vlan = vlan(&message.msg_hdr);
        }
        Ok(taken)
    }

    /// Sends frames in their order, at most [`BATCH_MAX`]; how many were sent.
    ///
    /// # Errors
    /// That of the first.
    pub fn send<'a>(&self, frames: impl Iterator<Item = &'a [u8]>) -> io::Result<usize> {
        let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH_MAX];
        let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH_MAX];
        let mut count = 0;
        for (at, frame) in frames.take(BATCH_MAX).enumerate() {
            // The system only reads what is sent.
            let piece = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
            let header = &mut messages[at].write(empty_message()).msg_hdr;
            header.msg_iov = pieces[at].write(piece);
            header.msg_iovlen = 1;
            count = at + 1;
        }
        let (fd, flags) = (self.fd.as_raw_fd(), libc::MSG_DONTWAIT as _);
        // SAFETY: the first `count` have been written, and each points at a frame that is borrowed until the call returns.
        let sent = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr().cast(), count as _, flags) };
        Ok(check(sent)? as usize)
    }

    /// Waits until frames can be sent again, for so many milliseconds at most.
    pub(super) fn await_room(&self, millis: c_int) {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one structure, borrowed for the call. Whatever comes of it, sending tells.
        let _ = unsafe { libc::poll(&mut poll, 1, millis) };
    }

    /// Frames that found no room since this was last asked.
    pub(super) fn overruns(&self) -> io::Result<u64> {
        // SAFETY: all zeros is a value of this structure.
        let mut counts: libc::tpacket_stats = unsafe { MaybeUninit::zeroed().assume_init() };
        let mut len = size_of_val(&counts) as libc::socklen_t;
        let at = (&raw mut counts).cast::<c_void>();
        // SAFETY: the structure is borrowed for the call, with its length.
        check(unsafe {
            libc::getsockopt(self.fd.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, at, &mut len)
        })?;
        Ok(u64::from(counts.tp_drops))
    }
}

/// Has the arbiter's event loop watch a descriptor for being readable.
pub(super) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: what watches the descriptor owns it, so it stays open for as long as it is watched.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// A message without anything in it.
fn empty_message() -> libc::mmsghdr {
    // SAFETY: a structure of which all zeros is a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// The tag the system took out of a frame.
fn vlan(message: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: the system has filled the control room of this message, and these functions stay within it.
    let data = unsafe {
        let mut control = libc::CMSG_FIRSTHDR(message);
        while !control.is_null()
            && ((*control).cmsg_level, (*control).cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA)
        {
            control = libc::CMSG_NXTHDR(message, control);
        }
        if control.is_null() {
            return None;
        }
        libc::CMSG_DATA(control).cast::<libc::tpacket_auxdata>().read_unaligned()
    };
    let tpid = if data.tp_status & VLAN_TPID_VALID != 0 { data.tp_vlan_tpid } else { 0x8100 };
    (data.tp_status & VLAN_VALID != 0).then_some((tpid, data.tp_vlan_tci))
}
