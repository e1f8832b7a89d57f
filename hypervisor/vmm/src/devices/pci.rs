//! PCI configuration mechanism 1 with nothing on the bus.
//!
//! Source: PCI Local Bus Specification 2.2, 3.2.2.3.2 "Software Generation of
//! Configuration Transactions".

/// Bits of the address that are wired: the lowest two are not.
const WIRED: u32 = 0x80ff_fffc;

/// The address register.
#[derive(Clone, Debug, Default)]
pub struct Pci {
    address: u32,
}

impl Pci {
    /// Port 0xcf8, 32 bits.
    pub const fn address(&self) -> u32 {
        self.address
    }

    /// Port 0xcf8, 32 bits.
    pub const fn set_address(&mut self, value: u32) {
        self.address = value & WIRED;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_finds_the_mechanism_by_its_address_register() {
        let mut pci = Pci::default();
        pci.set_address(0x8000_0000);
        assert_eq!(pci.address(), 0x8000_0000);
        pci.set_address(u32::MAX);
        assert_eq!(pci.address(), 0x80ff_fffc);
    }
}
