//! Commands of the configuration device, which reads and writes guest memory by itself.

use crate::devices::fw_cfg::{COMMAND_BYTES, Command, Transfer};
use crate::host::Host;
use crate::machine::Machine;
use crate::memory::{GuestMemory, HostMemory};
use crate::translation::Translation;
use anchorite_addr::{Gpa, PAGE_BYTES};
use anchorite_vcpu::Vcpu;

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// Carries out the command at `at`. One that lies outside memory has nowhere to be
    /// answered, and does nothing.
    #[cold]
    pub(super) fn fw_cfg_command(&mut self, at: Gpa) {
        let mut bytes = [0; COMMAND_BYTES];
        if self.memory.read(at, &mut bytes).is_err() {
            return;
        }
        let command = Command::parse(&bytes);
        let transfer = self.devices.fw_cfg.begin(&command);
        let stored = transfer.is_none_or(|transfer| store(&mut self.memory, &transfer));
        // What could be read but not written is a ROM, which keeps what it holds.
        let _ = self.memory.write(at, &command.answer(stored));
    }
}

/// Whether all of it has memory that can be written; nothing is written where it has not.
fn store<M: HostMemory>(memory: &mut GuestMemory<M>, transfer: &Transfer<'_>) -> bool {
    let start = Gpa::new(transfer.address);
    let bytes = transfer.bytes.len() as u64;
    let whole = bytes + u64::from(transfer.zeroes);
    if memory.check(start, whole).is_err() || memory.write(start, transfer.bytes).is_err() {
        return false;
    }
    let mut done = bytes;
    while done < whole {
        let part = (whole - done).min(PAGE_BYTES);
        let zeroes = &[0; PAGE_BYTES as usize][..part as usize];
        if memory.write(start.wrapping_add(done), zeroes).is_err() {
            return false;
        }
        done += part;
    }
    true
}

#[cfg(test)]
mod tests {
    use crate::devices::fw_cfg::{Contents, DMA_HIGH, DMA_LOW, FwCfg};
    use crate::fake::{FakeMachine, FakeVcpu, machine, out};
    use anchorite_abi::Verdict;
    use anchorite_addr::Gpa;
    use anchorite_vcpu::Gpr;

    const AT: u64 = 0x4000;

    /// Runs a guest that starts the command at `at`, which lies at `AT` in memory.
    fn after(command: [u32; 4], at: u64) -> FakeMachine {
        let half = |value: u64| {
            let swapped = (value as u32).swap_bytes();
            move |vcpu: &mut FakeVcpu| vcpu.registers[Gpr::Rax] = swapped.into()
        };
        let vcpu = FakeVcpu::default()
            .after(half(at >> 32), out(DMA_HIGH, 4))
            .after(half(at), out(DMA_LOW, 4));
        let mut machine = machine(vcpu);
        machine.serve_fw_cfg(FwCfg::new(Contents::default()));
        let bytes = command.map(u32::to_be_bytes).concat();
        machine.memory().write(Gpa::new(AT), &bytes).expect("memory");
        machine.memory().write(Gpa::new(0x8000), &[0xee; 16]).expect("memory");
        assert_eq!(machine.run().verdict(), Verdict::Pass);
        machine
    }

    fn bytes<const N: usize>(machine: &mut FakeMachine, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        machine.memory().read(Gpa::new(at), &mut bytes).expect("memory");
        bytes
    }

    #[test]
    fn a_read_stores_the_item_and_zeroes_behind_it_and_is_answered() {
        let mut machine = after([0x0a, 8, 0, 0x8000], AT);
        assert_eq!(&bytes::<9>(&mut machine, 0x8000), b"QEMU\0\0\0\0\xee");
        assert_eq!(bytes(&mut machine, AT), [0; 4]);
    }

    #[test]
    fn a_read_to_where_not_all_is_memory_is_an_error_and_stores_nothing() {
        for length in [0x80_0000, u32::MAX] {
            let mut machine = after([0x0a, length, 0, 0x8000], AT);
            assert_eq!(bytes(&mut machine, 0x8000), [0xee; 4]);
            assert_eq!(bytes(&mut machine, AT), [0, 0, 0, 1]);
        }
        let mut machine = after([0x0a, 4, 0x100, 0], AT);
        assert_eq!(bytes(&mut machine, AT), [0, 0, 0, 1]);
    }

    #[test]
    fn a_command_outside_memory_does_nothing() {
        for at in [0x900_0000, u64::MAX] {
            assert_eq!(bytes(&mut after([0x0a, 8, 0, 0x8000], at), 0x8000), [0xee; 4]);
        }
    }
}
