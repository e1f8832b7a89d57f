//! The machine's devices: pure state machines without a clock, a lock or a thread.
//!
//! Each is told the time ([`Now`]) with an access and answers with a value or an
//! [`Effect`]; what an effect means to the host is the run loop's business. No
//! input of a guest, however senseless, makes one panic or loop.
//!
//! | file | device | ports |
//! |---|---|---|
//! | [`bus`] | dispatch by port and by guest-physical address | all |
//! | [`uart`] | 16550A serial line | 0x3f8–0x3ff, IRQ 4 |
//! | [`irq`] | lines, controllers, and the queue of vectors before the vCPU | 0x5aa |
//! | [`pic`] | 8259 interrupt controllers | 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1 |
//! | [`apic`], `ioapic` | local and I/O APIC | memory at 0xfee0_0000, 0xfec0_0000 |
//! | [`pci`] | PCI configuration mechanism 1 with nothing behind it | 0xcf8, 0xcfc–0xcff |
//! | [`power`] | ACPI's fixed hardware: timer, power-off | 0x600–0x60b |
//! | [`pit`] | 8254 timer channels, IRQ 0; port B's gate and output of channel 2 | 0x40–0x43, 0x61 |
//! | [`cmos`] | real-time clock, IRQ 8; CMOS memory | 0x70, 0x71 |
//! | [`fw_cfg`] | QEMU's configuration device | 0x510, 0x511, 0x514–0x51b |
//! | [`i8042`] | keyboard controller without a keyboard; its reset line | 0x60, 0x64 |
//! | [`reset`] | the other ways to reset | 0x92, 0xcf9 |
//! | [`vga`] | CRT controller and status of a text-mode VGA | 0x3c2, 0x3cc, 0x3d4, 0x3d5, 0x3da |
//! | [`post`] | POST codes with their time | 0x80 |
//! | [`unknown`] | counts of accesses that nothing answers | the rest |
//! | [`mmio_test`] | a page of scratch registers | – |
//! | [`time`] | what time it is, as a value | – |
//!
//! The debug console (0xe9), the exit ports (0xf4, 0x501), the benchmark ports
//! (0x5a0, 0x5a8, 0x5a9) and the NMI port (0x5ab) have no state and live in [`bus`].
//!
//! uhyve's hypercalls (0x400–0x880, for a Hermit kernel alone) are decoded in [`bus`] and
//! carried out by the machine, because they reach into guest memory.
//!
//! How much of it a guest finds is chosen with [`DeviceSet`](anchorite_abi::DeviceSet).

pub mod apic;
pub mod bus;
pub mod cmos;
pub mod fw_cfg;
pub mod i8042;
mod ioapic;
pub mod irq;
pub mod mmio_test;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod post;
pub mod power;
pub mod reset;
pub mod time;
pub mod uart;
pub mod unknown;
mod vectors;
pub mod vga;

pub use bus::{Config, Devices, Effect};
pub(crate) use ioapic::IO_APIC_ID;
pub use irq::Interrupts;
pub use time::Now;
