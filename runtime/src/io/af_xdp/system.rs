//! The system calls of AF_XDP: the program that hands frames over, and the sockets that get them.
//!
//! Every pointer given to the system is to memory that is borrowed for the length of the call.
#![allow(unsafe_code)]

use super::super::region::Region;
use std::io;
use std::mem::{MaybeUninit, size_of, size_of_val};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::sync::Arc;

/// Commands of bpf(2), kinds of maps, programs and attachments (linux/bpf.h).
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE: libc::c_int = 2;
const MAP_DELETE: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const MAP_OF_SOCKETS: u32 = 17;
const PROG_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
/// Attach to the driver, or in front of the system's stack whatever the driver.
const FLAG_GENERIC: u32 = 1 << 1;
const FLAG_DRIVER: u32 = 1 << 2;

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are the structure this command reads, borrowed for the call, with its length.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

fn bpf_fd<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)? as RawFd;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A program on an interface that hands the frames of each queue to its socket; those of a queue without one go to the
/// system's stack. It is there for as long as this lives.
pub(super) struct Program {
    sockets: OwnedFd,
    _link: OwnedFd,
}

impl Program {
    /// Attaches it to an interface with so many queues: to the driver, or if the driver cannot, in front of the stack.
    pub(super) fn attach(interface: u32, queues: u32) -> io::Result<Self> {
        #[repr(C)]
        struct Map([u32; 5]);
        #[repr(C)]
        struct Load {
            kind: u32,
            instructions_len: u32,
            instructions: u64,
            license: u64,
            log: [u32; 2],
            log_buffer: u64,
            kernel: u32,
            flags: u32,
            name: [u8; 16],
            interface: u32,
            attach: u32,
        }
        #[repr(C)]
        struct Link([u32; 4]);
        let sockets = bpf_fd(MAP_CREATE, &mut Map([MAP_OF_SOCKETS, 4, 4, queues, 0]))?;
        let instructions = instructions(sockets.as_raw_fd());
        let license = c"Dual MIT/GPL";
        let mut load = Load {
            kind: PROG_XDP,
            instructions_len: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log: [0; 2],
            log_buffer: 0,
            kernel: 0,
            flags: 0,
            name: *b"chc\0\0\0\0\0\0\0\0\0\0\0\0\0",
            interface: 0,
            attach: ATTACH_XDP,
        };
        let program = bpf_fd(PROG_LOAD, &mut load)?;
        let link = |flags| {
            bpf_fd(LINK_CREATE, &mut Link([program.as_raw_fd() as u32, interface, ATTACH_XDP, flags]))
        };
        let link = link(FLAG_DRIVER).or_else(|_| link(FLAG_GENERIC))?;
        Ok(Self { sockets, _link: link })
    }

    /// Has a queue's frames go to a socket, or to the stack again.
    pub(super) fn direct(&self, queue: u32, to: Option<&OwnedFd>) -> io::Result<()> {
        #[repr(C)]
        struct Element {
            map: u32,
            unused: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let socket = to.map(|socket| socket.as_raw_fd() as u32);
        // The kernel refuses to delete an element that comes with a value.
        let value = socket.as_ref().map_or(0, |socket| std::ptr::from_ref(socket) as u64);
        let (map, key) = (self.sockets.as_raw_fd() as u32, (&raw const queue) as u64);
        let element = &mut Element { map, unused: 0, key, value, flags: 0 };
        let command = if to.is_some() { MAP_UPDATE } else { MAP_DELETE };
        bpf(command, element).map(drop)
    }
}

/// `return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS)`, as the kernel's verifier reads it.
fn instructions(sockets: RawFd) -> [u64; 6] {
    let instruction = |code: u8, registers: u8, offset: u16, number: u32| {
        u64::from_ne_bytes({
            let mut bytes = [0; 8];
            (bytes[0], bytes[1]) = (code, registers);
            bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
            bytes[4..].copy_from_slice(&number.to_ne_bytes());
            bytes
        })
    };
    [
        instruction(0x61, 0x12, 16, 0),
        instruction(0x18, 0x11, 0, sockets as u32),
        instruction(0, 0, 0, 0),
        instruction(0xb7, 0x03, 0, 2),
        instruction(0x85, 0, 0, 51),
        instruction(0x95, 0, 0, 0),
    ]
}

/// A ring of a socket: where it is mapped, and where in there its parts are.
pub(super) struct Mapped {
    pub(super) region: Arc<Region>,
    pub(super) producer: usize,
    pub(super) consumer: usize,
    pub(super) flags: usize,
    pub(super) entries: usize,
}

/// The rings of a socket.
pub(super) struct Rings {
    pub(super) receive: Mapped,
    pub(super) transmit: Mapped,
    pub(super) fill: Mapped,
    pub(super) complete: Mapped,
}

/// A socket without anything.
pub(super) fn unbound() -> io::Result<OwnedFd> {
    // SAFETY: a plain call without pointers.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An AF_XDP socket.
pub(super) struct Socket(pub(super) OwnedFd);

impl Socket {
    /// A socket with rings of so many entries, whose frames of so many bytes lie in `memory`.
    pub(super) fn new(memory: &Region, frame_len: usize, entries: u32) -> io::Result<(Self, Rings)> {
        let socket = Self(unbound()?);
        // SAFETY: all zeros is a value of this structure.
        let mut frames: libc::xdp_umem_reg = unsafe { MaybeUninit::zeroed().assume_init() };
        (frames.addr, frames.len, frames.chunk_size) =
            (memory.at(0) as u64, memory.len() as u64, frame_len as u32);
        socket.set(libc::XDP_UMEM_REG, &frames)?;
        for ring in
            [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING]
        {
            socket.set(ring, &entries)?;
        }
        let offsets: libc::xdp_mmap_offsets = socket.get(libc::XDP_MMAP_OFFSETS)?;
        let map = |ring: &libc::xdp_ring_offset, entry_len: usize, at: u64| -> io::Result<Mapped> {
            let len = ring.desc as usize + entries as usize * entry_len;
            Ok(Mapped {
                region: Arc::new(Region::map(socket.0.as_fd(), len, at)?),
                producer: ring.producer as usize,
                consumer: ring.consumer as usize,
                flags: ring.flags as usize,
                entries: ring.desc as usize,
            })
        };
        let (whole, address) = (size_of::<libc::xdp_desc>(), size_of::<u64>());
        let rings = Rings {
            receive: map(&offsets.rx, whole, libc::XDP_PGOFF_RX_RING as u64)?,
            transmit: map(&offsets.tx, whole, libc::XDP_PGOFF_TX_RING as u64)?,
            fill: map(&offsets.fr, address, libc::XDP_UMEM_PGOFF_FILL_RING)?,
            complete: map(&offsets.cr, address, libc::XDP_UMEM_PGOFF_COMPLETION_RING)?,
        };
        Ok((socket, rings))
    }

    fn set<T>(&self, option: libc::c_int, value: &T) -> io::Result<()> {
        let (at, len) = ((&raw const *value).cast(), size_of_val(value) as libc::socklen_t);
        // SAFETY: the value is borrowed for the call, with its length.
        match unsafe { libc::setsockopt(self.0.as_raw_fd(), libc::SOL_XDP, option, at, len) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn get<T: Copy>(&self, option: libc::c_int) -> io::Result<T> {
        let mut value = MaybeUninit::<T>::zeroed();
        let mut len = size_of::<T>() as libc::socklen_t;
        let (fd, at) = (self.0.as_raw_fd(), value.as_mut_ptr().cast());
        // SAFETY: the value is borrowed for the call, with its length.
        match unsafe { libc::getsockopt(fd, libc::SOL_XDP, option, at, &mut len) } {
            // SAFETY: these options are plain numbers, which zeros are, too.
            0 => Ok(unsafe { value.assume_init() }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Binds it to a queue, with or without copying.
    pub(super) fn bind(&self, interface: u32, queue: u32, how: u16) -> io::Result<()> {
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: how | libc::XDP_USE_NEED_WAKEUP,
            sxdp_ifindex: interface,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        let (at, len) = ((&raw const address).cast(), size_of_val(&address) as libc::socklen_t);
        // SAFETY: the address is borrowed for the call, with its length.
        match unsafe { libc::bind(self.0.as_raw_fd(), at, len) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Has the system send what was given.
    pub(super) fn send(&self) -> io::Result<()> {
        let (fd, none) = (self.0.as_raw_fd(), std::ptr::null());
        // SAFETY: no memory is handed over.
        let sent = unsafe { libc::sendto(fd, none, 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Has the system see that it was given frames to fill.
    pub(super) fn wake(&self) {
        let (fd, none) = (self.0.as_raw_fd(), std::ptr::null_mut());
        // SAFETY: no memory is handed over. Whatever comes of it, the next look tells.
        let _ = unsafe { libc::recv(fd, none, 0, libc::MSG_DONTWAIT) };
    }

    /// Frames that were dropped because nobody took those before.
    pub(super) fn overruns(&self) -> io::Result<u64> {
        let counts: libc::xdp_statistics = self.get(libc::XDP_STATISTICS)?;
        Ok(counts.rx_dropped + counts.rx_ring_full + counts.rx_fill_ring_empty_descs)
    }
}
