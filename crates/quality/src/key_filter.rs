//! A split-block Bloom filter over key hashes, as Parquet has it: one cache line is touched per key.

/// Odd numbers that give each word of a block a bit of its own ("Parquet Bloom Filter", SALT).
const SALTS: [u32; 8] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

/// Tells keys that were surely never added from those that may have been.
#[derive(Debug)]
pub(crate) struct KeyFilter {
    blocks: Vec<[u32; 8]>,
}

impl KeyFilter {
    /// Makes an empty filter of about `bytes`.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { blocks: vec![[0; 8]; (bytes / 32).max(1)] }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.blocks.len() * 32
    }

    pub(crate) fn add(&mut self, key: u128) {
        let (block, bits) = self.place(key);
        for (word, bit) in self.blocks[block].iter_mut().zip(bits) {
            *word |= bit;
        }
    }

    pub(crate) fn may_hold(&self, key: u128) -> bool {
        let (block, bits) = self.place(key);
        self.blocks[block].iter().zip(bits).all(|(word, bit)| word & bit != 0)
    }

    fn place(&self, key: u128) -> (usize, [u32; 8]) {
        // The top bits choose the partition of the key set, so they are left alone here.
        let (high, low) = ((key >> 64) as u32, key as u32);
        let block = (u64::from(high) * self.blocks.len() as u64) >> 32;
        (block as usize, SALTS.map(|salt| 1 << (low.wrapping_mul(salt) >> 27)))
    }
}
