//! Keys against a plain set, whatever the memory.

use std::collections::{HashMap, HashSet};

use proptest::prelude::{any, prop, prop_assert_eq, proptest};

use crate::key_set::{KeySet, Seen};

/// A key with its high and low bits spread like a hash's, the same for the same number.
fn key(number: u64) -> u128 {
    let mix = |seed: u64| {
        (number ^ seed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(31)
            .wrapping_mul(0xbf58_476d_1ce4_e5b9)
    };
    u128::from(mix(1)) << 64 | u128::from(mix(2))
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    /// With the disk asked about those that may be there, the set says what a plain one says.
    #[test]
    fn a_key_set_is_a_set_in_any_memory(numbers in prop::collection::vec(0_u64..20_000, 0..40_000), budget in 0_usize..400_000) {
        let mut set = KeySet::new(std::env::temp_dir(), budget);
        let mut plain = HashSet::new();
        let mut news = HashSet::new();
        let mut deferred: HashMap<u128, bool> = HashMap::new();
        for number in &numbers {
            match set.add(key(*number)).unwrap() {
                Seen::New => { prop_assert_eq!(plain.contains(number), false); news.insert(*number); }
                Seen::Before => prop_assert_eq!(plain.contains(number), true),
                Seen::Perhaps => { deferred.insert(key(*number), false); }
            }
            plain.insert(*number);
        }
        let wanted: Vec<u128> = deferred.keys().copied().collect();
        set.find_spilled(wanted.into_iter(), |found| if let Some(known) = deferred.get_mut(&found) { *known = true }).unwrap();
        // What the disk does not know was never said to be new before.
        for number in &plain {
            let on_disk = deferred.get(&key(*number)).copied();
            prop_assert_eq!(news.contains(number), on_disk != Some(false));
        }
    }

    #[test]
    fn spilled_keys_are_counted(count in 1_u64..30_000, seed in any::<u32>()) {
        let mut set = KeySet::new(std::env::temp_dir(), 10_000);
        for number in 0..count {
            set.add(key(number + u64::from(seed))).unwrap();
        }
        let mut on_disk = 0;
        set.find_spilled((0..count).map(|number| key(number + u64::from(seed))), |_| on_disk += 1).unwrap();
        prop_assert_eq!(set.spilled_bytes(), 16 * on_disk);
    }
}
