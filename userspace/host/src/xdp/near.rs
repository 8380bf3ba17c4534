//! The table in front of the hash map of IPv4 addresses; see [`netdext_abi::near`].

use aya::Ebpf;
use aya::maps::{Array, MapData};
use netdext_abi::maps::NEAR_V4;
use netdext_abi::near::{NEAR_SLOTS, Near, near_slot};

use super::steering::{SteeringError, refused, take};

/// How many addresses have each slot.
#[derive(Debug)]
struct Sharing(Box<[u32; NEAR_SLOTS as usize]>);

impl Sharing {
    fn new() -> Self {
        Self(Box::new([0; NEAR_SLOTS as usize]))
    }

    /// What the slot of an address holds from now on, when its uses have changed from `before` to `after`; `None` when it
    /// stays as it is. A slot that was shared stays so until nobody has it any more: who is left isn't known here.
    fn change(&mut self, address: [u8; 4], before: u32, after: u32) -> Option<Near> {
        let addresses = &mut self.0[near_slot(address) as usize];
        match (before, after) {
            (0, 0) => None,
            (0, _) => {
                *addresses += 1;
                match *addresses {
                    1 => Some(Near::one(address, after)),
                    2 => Some(Near::MANY),
                    _ => None,
                }
            }
            (_, 0) => {
                *addresses -= 1;
                (*addresses == 0).then_some(Near::NOBODY)
            }
            (_, _) => (*addresses == 1).then_some(Near::one(address, after)),
        }
    }
}

/// The map of slots.
pub(crate) struct NearV4 {
    slots: Array<MapData, [u8; size_of::<Near>()]>,
    sharing: Sharing,
}

impl NearV4 {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, SteeringError> {
        Ok(Self { slots: take(ebpf, NEAR_V4)?, sharing: Sharing::new() })
    }

    /// To be called after the hash map has changed.
    pub(crate) fn change(&mut self, address: [u8; 4], before: u32, after: u32) -> Result<(), SteeringError> {
        match self.sharing.change(address, before, after) {
            Some(near) => self
                .slots
                .set(near_slot(address), near.to_bytes(), 0)
                .map_err(refused("writing an address", NEAR_V4)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use netdext_abi::maps::{BROADCAST, OWNED};
    use proptest::prelude::*;

    use super::*;

    /// Addresses that share few slots.
    fn address() -> impl Strategy<Value = [u8; 4]> {
        let few = (1_u32..5000).map(u32::to_ne_bytes).filter(|address| near_slot(*address) < 8);
        let other = prop::sample::select(few.collect::<Vec<_>>());
        prop_oneof![other, Just([198, 18, 0, 1]), Just([198, 18, 0, 255])]
    }

    proptest! {
        #[test]
        fn slots_say_what_the_hash_map_holds(changes in prop::collection::vec((address(), 0_u32..4), 1..200)) {
            let mut uses: HashMap<[u8; 4], u32> = HashMap::new();
            let mut slots = vec![Near::NOBODY; NEAR_SLOTS as usize];
            let mut sharing = Sharing::new();
            for (address, after) in changes {
                let before = uses.insert(address, after).unwrap_or(0);
                if let Some(near) = sharing.change(address, before, after) {
                    slots[near_slot(address) as usize] = near;
                }
                for (address, uses) in &uses {
                    let said = slots[near_slot(*address) as usize].uses(*address);
                    prop_assert!(said.is_none_or(|said| said == *uses), "{address:?}: {said:?}, not {uses}");
                }
            }
            for address in uses.keys() {
                let others = uses.iter().filter(|(_, uses)| **uses != 0);
                let here = others.filter(|(other, _)| near_slot(**other) == near_slot(*address)).count();
                let slot = slots[near_slot(*address) as usize];
                prop_assert_eq!(here == 0, slot == Near::NOBODY);
            }
        }
    }

    #[test]
    fn a_slot_of_one_address_needs_no_hash_map() {
        let (one, mut sharing) = ([198, 18, 0, 1], Sharing::new());
        let near = sharing.change(one, 0, OWNED).unwrap();
        assert_eq!(near.uses(one), Some(OWNED));
        assert_eq!(near.uses([198, 18, 0, 2]), Some(0));
        let near = sharing.change(one, OWNED, OWNED | BROADCAST).unwrap();
        assert_eq!(near.uses(one), Some(OWNED | BROADCAST));
        assert_eq!(sharing.change(one, OWNED | BROADCAST, 0), Some(Near::NOBODY));
    }
}
