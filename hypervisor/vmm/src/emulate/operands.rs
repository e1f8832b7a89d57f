//! Registers, immediates and memory as the operands of one instruction.

use super::address::{Access, MemoryOperand, linearize};
use super::environment::{Environment, Fault};
use super::flags::{Computed, mask};
use super::mode::{CodeSize, Mode};
use anchorite_addr::Gva;
use anchorite_vcpu::{Gpr, Registers, SegmentRegister};
use iced_x86::{Instruction, OpKind, Register};

/// One instruction on its way: a copy of the registers that becomes the guest's
/// only when all memory accesses have succeeded.
pub(super) struct Step<'a, E> {
    pub(super) instruction: &'a Instruction,
    pub(super) mode: Mode,
    pub(super) registers: Registers,
    pub(super) environment: &'a mut E,
}

/// Where the first operand of a read-modify-write instruction lies.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Register(Register),
    Memory(Gva),
}

impl<E: Environment> Step<'_, E> {
    /// Bytes of operand `index`: 1, 2, 4 or 8 (16 for a vector).
    pub(super) fn size(&self, index: u32) -> u8 {
        match self.instruction.op_kind(index) {
            OpKind::Register => self.instruction.op_register(index).size() as u8,
            OpKind::Memory => self.instruction.memory_size().size() as u8,
            _ => self.size_of_first(),
        }
    }

    /// Operand `index`, zero-extended to 64 bits; immediates come sign-extended and
    /// are cut to the first operand's size.
    pub(super) fn read(&mut self, index: u32) -> Result<u64, Fault> {
        match self.instruction.op_kind(index) {
            OpKind::Register => self.register(self.instruction.op_register(index)),
            OpKind::Memory => {
                let size = self.size(index);
                let address = self.address(size, Access::Read)?;
                self.environment.load(address, size, Access::Read)
            }
            _ => {
                let immediate = self.instruction.try_immediate(index);
                immediate
                    .map(|value| value & mask(self.size_of_first()))
                    .or(Err(Fault::Unsupported))
            }
        }
    }

    /// Writes operand `index`, a register or memory.
    pub(super) fn write(&mut self, index: u32, value: u64) -> Result<(), Fault> {
        let size = self.size(index);
        match self.instruction.op_kind(index) {
            OpKind::Register => self.set_register(self.instruction.op_register(index), value),
            OpKind::Memory => {
                let address = self.address(size, Access::Write)?;
                self.environment.store(address, size, value & mask(size))
            }
            _ => Err(Fault::Unsupported),
        }
    }

    /// The first operand's value and where to put its successor.
    pub(super) fn read_target(&mut self) -> Result<(u64, Target), Fault> {
        self.read_target_at(0)
    }

    /// The same, in memory `distance` bytes further on.
    pub(super) fn read_target_at(&mut self, distance: u64) -> Result<(u64, Target), Fault> {
        let register = self.instruction.op0_register();
        match self.instruction.op0_kind() {
            OpKind::Register => Ok((self.register(register)?, Target::Register(register))),
            OpKind::Memory => {
                let size = self.size(0);
                let address = self.address_at(distance, size, Access::ReadForWrite)?;
                let value = self.environment.load(address, size, Access::ReadForWrite)?;
                Ok((value, Target::Memory(address)))
            }
            _ => Err(Fault::Unsupported),
        }
    }

    /// Replaces what [`read_target`](Self::read_target) read as `old`.
    pub(super) fn write_target(&mut self, target: Target, old: u64, new: u64) -> Result<(), Fault> {
        let size = self.size(0);
        match target {
            Target::Register(register) => self.set_register(register, new),
            Target::Memory(address) if self.is_locked() => {
                let environment = &mut *self.environment;
                let stored = environment.store_if_unchanged(address, size, old, new)?;
                if stored { Ok(()) } else { Err(Fault::Retry) }
            }
            Target::Memory(address) => self.environment.store(address, size, new),
        }
    }

    /// Takes over a result's flags.
    pub(super) fn set_flags(&mut self, computed: Computed) {
        self.registers.rflags = computed.apply(self.registers.rflags);
    }

    /// Whether all flags of `flags` are set.
    pub(super) fn has_flag(&self, flags: anchorite_vcpu::Rflags) -> bool {
        self.registers.rflags & flags.bits() == flags.bits()
    }

    /// The first operand, in memory `distance` bytes further on.
    pub(super) fn read_at(&mut self, distance: u64) -> Result<u64, Fault> {
        if self.instruction.op0_kind() != OpKind::Memory {
            return self.read(0);
        }
        let size = self.size(0);
        let address = self.address_at(distance, size, Access::Read)?;
        self.environment.load(address, size, Access::Read)
    }

    /// The linear address of the memory operand, checked for `size` bytes.
    pub(super) fn address(&self, size: u8, access: Access) -> Result<Gva, Fault> {
        self.address_at(0, size, access)
    }

    /// The same, `distance` bytes further on (modulo the address size).
    pub(super) fn address_at(&self, distance: u64, size: u8, access: Access) -> Result<Gva, Fault> {
        let mut operand = memory_operand(self.instruction, self.mode.code);
        operand.displacement = operand.displacement.wrapping_add(distance);
        let offset = operand.offset(&self.registers);
        Ok(linearize(self.environment, self.mode, operand.segment, offset, size, access)?)
    }

    /// A general register of any size, or a segment register's selector.
    pub(super) fn register(&self, register: Register) -> Result<u64, Fault> {
        if let Some(segment) = segment_register(register) {
            return Ok(self.environment.segment(segment).selector.into());
        }
        let gpr = general_register(register).ok_or(Fault::Unsupported)?;
        let shift = if is_high_byte(register) { 8 } else { 0 };
        Ok(self.registers[gpr] >> shift & mask(register.size() as u8))
    }

    /// Sets a general register: writing four bytes clears the upper half, writing
    /// one or two leaves the rest alone.
    pub(super) fn set_register(&mut self, register: Register, value: u64) -> Result<(), Fault> {
        let gpr = general_register(register).ok_or(Fault::Unsupported)?;
        let shift = if is_high_byte(register) { 8 } else { 0 };
        let size = register.size() as u8;
        let kept = if size >= 4 { 0 } else { self.registers[gpr] & !(mask(size) << shift) };
        self.registers[gpr] = kept | (value & mask(size)) << shift;
        Ok(())
    }

    /// Whether memory must be replaced atomically: LOCK, and XCHG always.
    fn is_locked(&self) -> bool {
        self.instruction.has_lock_prefix()
            || self.instruction.mnemonic() == iced_x86::Mnemonic::Xchg
    }

    fn size_of_first(&self) -> u8 {
        match self.instruction.op0_kind() {
            OpKind::Register => self.instruction.op0_register().size() as u8,
            OpKind::Memory => self.instruction.memory_size().size() as u8,
            _ => 8,
        }
    }
}

/// The memory operand of an instruction; what lies relative to RIP has its target
/// as displacement.
pub fn memory_operand(instruction: &Instruction, code: CodeSize) -> MemoryOperand {
    let base = instruction.memory_base();
    let relative = matches!(base, Register::RIP | Register::EIP);
    MemoryOperand {
        segment: memory_segment(instruction, code),
        base: if relative { None } else { general_register(base) },
        index: general_register(instruction.memory_index()),
        shift: instruction.memory_index_scale().trailing_zeros() as u8,
        displacement: instruction.memory_displacement64(),
        address_bytes: address_bytes(instruction, code),
    }
}

/// The segment of the memory operand. In 64-bit mode overrides other than FS and GS
/// are void, and the base register decides whether a fault is #SS or #GP.
pub(super) fn memory_segment(instruction: &Instruction, code: CodeSize) -> SegmentRegister {
    let named = instruction.memory_segment();
    if code != CodeSize::Bits64 || matches!(named, Register::FS | Register::GS) {
        return segment_register(named).unwrap_or(SegmentRegister::Ds);
    }
    match general_register(instruction.memory_base()) {
        Some(Gpr::Rsp | Gpr::Rbp) => SegmentRegister::Ss,
        _ => SegmentRegister::Ds,
    }
}

/// Bytes of the memory operand's address: those of its registers, and where it has
/// none those of its displacement.
fn address_bytes(instruction: &Instruction, code: CodeSize) -> u8 {
    let named = [instruction.memory_base(), instruction.memory_index()];
    match named.into_iter().find(|&register| register != Register::None) {
        Some(register) => register.size() as u8,
        None => match (instruction.memory_displ_size(), code) {
            (2, _) => 2,
            (8, _) | (0, CodeSize::Bits64) => 8,
            _ => 4,
        },
    }
}

/// The register that `register` is a part of, if it is a general one.
pub fn general_register(register: Register) -> Option<Gpr> {
    register.is_gpr().then(|| Gpr::from_encoding(register.full_register().number() as u8))
}

fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

fn segment_register(register: Register) -> Option<SegmentRegister> {
    Some(match register {
        Register::ES => SegmentRegister::Es,
        Register::CS => SegmentRegister::Cs,
        Register::SS => SegmentRegister::Ss,
        Register::DS => SegmentRegister::Ds,
        Register::FS => SegmentRegister::Fs,
        Register::GS => SegmentRegister::Gs,
        _ => return None,
    })
}
