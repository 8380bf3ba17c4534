//! The maps, and the port as they know it.

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{
        Array, HashMap, PerCpuArray, ProgramArray, XskMap,
        lpm_trie::{Key as TrieKey, LpmTrie},
    },
};
use netdext_abi::{
    Config, PortView,
    counter::{COUNTER_COUNT, PADDED_NAME_LEN, PADDED_NAMES},
    maps::{DEFAULT_ADDRESSES, DEFAULT_PREFIXES, DEFAULT_QUEUES},
    near::{NEAR_SLOTS, Near, near_slot},
    rules::{HIT_SLOTS, Side, TABLES, Table, Tries, Winners},
    verdict::Undecided,
};

use crate::frame::forget;

#[map]
pub static XSKS: XskMap = XskMap::with_max_entries(DEFAULT_QUEUES, 0);
#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
// Without preallocation: room for many addresses costs only the buckets, and a removed element isn't reused while read.
#[map]
static OWNED_V4: HashMap<[u8; 4], u32> = HashMap::with_max_entries(DEFAULT_ADDRESSES, BPF_F_NO_PREALLOC);
#[map]
static OWNED_V6: HashMap<[u8; 16], u32> = HashMap::with_max_entries(DEFAULT_ADDRESSES, BPF_F_NO_PREALLOC);
#[map]
static NEAR_V4: Array<Near> = Array::with_max_entries(NEAR_SLOTS, 0);
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT as u32, 0);
#[map]
static RULES: Array<Table> = Array::with_max_entries(TABLES, 0);
#[map]
static DESTINATION_V4: LpmTrie<[u8; 4], Winners> = LpmTrie::with_max_entries(DEFAULT_PREFIXES, 0);
#[map]
static SOURCE_V4: LpmTrie<[u8; 4], Winners> = LpmTrie::with_max_entries(DEFAULT_PREFIXES, 0);
#[map]
static DESTINATION_V6: LpmTrie<[u32; 4], Winners> = LpmTrie::with_max_entries(DEFAULT_PREFIXES, 0);
#[map]
static SOURCE_V6: LpmTrie<[u32; 4], Winners> = LpmTrie::with_max_entries(DEFAULT_PREFIXES, 0);
#[map]
static RULE_HITS: PerCpuArray<u64> = PerCpuArray::with_max_entries(HIT_SLOTS, 0);
#[map]
pub static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(3, 0);
#[map]
pub static UNDECIDED: PerCpuArray<Undecided> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static LOGGED: PerCpuArray<[u32; 2]> = PerCpuArray::with_max_entries(1, 0);

/// Set by the loader. The map behind it is frozen before the program is loaded, so the verifier knows the value and
/// removes what it makes unreachable.
#[unsafe(no_mangle)]
pub static LOG_FRAMES: Global<u8> = Global::new(0);

/// Unmangled, because a mangled name depends on where the sources lie on the building machine.
#[unsafe(no_mangle)]
pub static REASONS: [[u8; PADDED_NAME_LEN]; COUNTER_COUNT] = PADDED_NAMES;

/// The port as the maps know it.
pub struct Port;

impl PortView for Port {
    #[inline(always)]
    fn config(&self) -> Config {
        // The only element of an array is always there.
        CONFIG.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn v4(&self, address: [u8; 4]) -> u32 {
        // Every slot is there.
        if let Some(uses) = NEAR_V4.get(near_slot(address)).and_then(|near| near.uses(address)) {
            return uses;
        }
        // SAFETY: elements are written whole, and stay readable until the program returns.
        OWNED_V4.get_ptr(address).map_or(0, |uses| unsafe { *uses })
    }

    #[inline(always)]
    fn owns_v6(&self, address: [u8; 16]) -> bool {
        OWNED_V6.get_ptr(address).is_some()
    }

    type Tries = Prefixes;

    #[inline(always)]
    fn rules(&self, table: u8) -> Option<(&Table, &Prefixes)> {
        Some((RULES.get(u32::from(table.checked_sub(1)?))?, &Prefixes))
    }

    #[inline(always)]
    fn hit(&self, slot: u32) {
        // A rule without a slot has a number that no element has.
        if let Some(value) = RULE_HITS.get_ptr_mut(slot) {
            // SAFETY: the pointer is to this CPU's element, and XDP programs aren't interrupted by others on the same CPU.
            unsafe { *value += 1 };
        }
    }
}

/// The rules by prefix alone.
pub struct Prefixes;

impl Tries for Prefixes {
    #[inline(always)]
    fn longest_v4(&self, side: Side, address: [u8; 4]) -> Option<&Winners> {
        let key = TrieKey::new(32, address);
        match side {
            Side::Destination => DESTINATION_V4.get(&key),
            Side::Source => SOURCE_V4.get(&key),
        }
    }

    #[inline(always)]
    fn longest_v6(&self, side: Side, address: [u8; 16]) -> Option<&Winners> {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
        // One by one: the key lies on the stack, 4 bytes behind a multiple of eight, and the stack is the one place where
        // the verifier wants eight bytes to be aligned.
        let words = [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]];
        let key = TrieKey::new(128, words.map(|word| forget(u32::from_ne_bytes(word) as usize) as u32));
        match side {
            Side::Destination => DESTINATION_V6.get(&key),
            Side::Source => SOURCE_V6.get(&key),
        }
    }
}
