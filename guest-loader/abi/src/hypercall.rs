//! Hypercalls: VMCALL on Intel, VMMCALL on AMD.
//!
//! The number goes in EAX, arguments in RDI and RSI; the answer comes in EAX, and every
//! other register stays as it is. All but [`NOP`] belong to the kernel: privilege levels 1
//! to 3 get [`DENIED`].
//!
//! The **remap window** is [`WINDOW_BYTES`] of memory beside the guest's RAM. At first it
//! lies nowhere. A guest adds it at a guest-physical address of its choice, moves it, makes
//! it read-only like a ROM, and deletes it, while it runs; its bytes stay. Each of these
//! changes the machine's memory slots, and so zaps all shadow pages.

/// Does nothing but return 0.
pub const NOP: u32 = 0;
/// Zaps all shadow pages. Returns 0.
pub const ZAP_ALL: u32 = 1;
/// Returns how many 4 KiB frames the window has.
pub const WINDOW_FRAMES: u32 = 2;
/// Adds the window at the guest-physical address in RDI, a multiple of 4096; writable.
pub const WINDOW_ADD: u32 = 3;
/// Deletes it.
pub const WINDOW_DELETE: u32 = 4;
/// Moves it to the guest-physical address in RDI, a multiple of 4096.
pub const WINDOW_MOVE: u32 = 5;
/// Makes it read-only where RDI is 1, writable where it is 0.
pub const WINDOW_READ_ONLY: u32 = 6;
/// Starts to log which of its frames are written to. Under nested paging there is no log:
/// [`REFUSED`].
pub const DIRTY_START: u32 = 7;
/// Stores one bit a frame at the guest-physical address in RDI, a multiple of 8 outside the
/// window: set where the frame was written to since the last harvest. Bit n of byte k stands
/// for frame 8k + n. Returns how many are set.
pub const DIRTY_HARVEST: u32 = 8;
/// Stops the log.
pub const DIRTY_STOP: u32 = 9;

/// A call that cannot be obeyed: the window is not where the call wants it, other memory
/// lies there, an argument is out of range.
pub const REFUSED: u32 = u32::MAX - 2;
/// The caller is not the kernel.
pub const DENIED: u32 = u32::MAX - 1;
/// The hypervisor does not know this number.
pub const UNKNOWN: u32 = u32::MAX;

/// Bytes of the remap window.
pub const WINDOW_BYTES: u64 = 4 << 20;
