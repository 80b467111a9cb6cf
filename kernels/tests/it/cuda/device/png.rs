//! A picture of lines and a few words, written as PNG without compression (ISO/IEC 15948; RFC 1950 and 1951).

/// RGB, row by row.
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pixels: Vec<u8>,
}

/// Letters of three columns and five rows: 15 bits, the first one at the top left.
const LETTERS: &[(char, u16)] = &[
    ('0', 0b111_101_101_101_111),
    ('1', 0b010_110_010_010_111),
    ('2', 0b111_001_111_100_111),
    ('3', 0b111_001_111_001_111),
    ('4', 0b101_101_111_001_001),
    ('5', 0b111_100_111_001_111),
    ('6', 0b111_100_111_101_111),
    ('7', 0b111_001_010_010_010),
    ('8', 0b111_101_111_101_111),
    ('9', 0b111_101_111_001_111),
    ('a', 0b000_111_011_101_111),
    ('b', 0b100_111_101_101_111),
    ('c', 0b000_111_100_100_111),
    ('d', 0b001_111_101_101_111),
    ('e', 0b111_101_111_100_111),
    ('f', 0b011_010_111_010_010),
    ('l', 0b110_010_010_010_111),
    ('m', 0b000_111_111_101_101),
    ('n', 0b000_110_101_101_101),
    ('o', 0b000_111_101_101_111),
    ('p', 0b000_111_101_111_100),
    ('q', 0b000_111_101_111_001),
    ('r', 0b000_101_110_100_100),
    ('s', 0b000_111_110_011_111),
    ('t', 0b010_111_010_010_011),
    ('u', 0b000_101_101_101_111),
    ('.', 0b000_000_000_000_010),
    ('_', 0b000_000_000_000_111),
];

impl Picture {
    pub fn new(width: usize, height: usize) -> Picture {
        Picture { width, height, pixels: vec![255; width * height * 3] }
    }

    pub fn set(&mut self, x: isize, y: isize, color: [u8; 3]) {
        if (0..self.width as isize).contains(&x) && (0..self.height as isize).contains(&y) {
            let at = (y as usize * self.width + x as usize) * 3;
            self.pixels[at..at + 3].copy_from_slice(&color);
        }
    }

    /// A line, `wide` pixels across; of `dash` pixels every other run is left out, 0: none.
    pub fn line(&mut self, from: [f64; 2], to: [f64; 2], color: [u8; 3], wide: isize, dash: usize) {
        let steps = (to[0] - from[0]).abs().max((to[1] - from[1]).abs()).ceil().max(1.0) as usize;
        for step in 0..=steps {
            let share = step as f64 / steps as f64;
            let [x, y] = [0, 1].map(|i| (from[i] + (to[i] - from[i]) * share).round() as isize);
            if dash > 0 && (x as usize / dash) % 2 == 1 {
                continue;
            }
            for across in 0..wide {
                self.set(x, y + across - wide / 2, color);
            }
        }
    }

    /// Words in small letters, twice as large as they are drawn.
    pub fn text(&mut self, [x, y]: [isize; 2], words: &str, color: [u8; 3]) {
        for (n, letter) in words.chars().enumerate() {
            let bits = LETTERS.iter().find(|(of, _)| *of == letter).map_or(0, |(_, bits)| *bits);
            for dot in (0..15).filter(|dot| bits >> (14 - dot) & 1 == 1) {
                for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    self.set(x + n as isize * 8 + dot % 3 * 2 + dx, y + dot / 3 * 2 + dy, color);
                }
            }
        }
    }

    /// The file.
    pub fn png(&self) -> Vec<u8> {
        // Each row begins with its filter, none.
        let rows: Vec<u8> =
            self.pixels.chunks(self.width * 3).flat_map(|row| [0].into_iter().chain(row.iter().copied())).collect();
        let mut stored = vec![0x78, 0x01];
        let blocks = rows.chunks(65_535).count();
        for (n, block) in rows.chunks(65_535).enumerate() {
            let length = block.len() as u16;
            stored.push(u8::from(n + 1 == blocks));
            stored.extend(length.to_le_bytes());
            stored.extend((!length).to_le_bytes());
            stored.extend(block);
        }
        let (a, b) = rows.iter().fold((1u32, 0u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65_521;
            (a, (b + a) % 65_521)
        });
        stored.extend((b << 16 | a).to_be_bytes());
        let mut header = [self.width as u32, self.height as u32].map(u32::to_be_bytes).concat();
        header.extend([8, 2, 0, 0, 0]);
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        for (kind, content) in [(b"IHDR", header.as_slice()), (b"IDAT", &stored), (b"IEND", &[])] {
            file.extend((content.len() as u32).to_be_bytes());
            let named = [kind.as_slice(), content].concat();
            file.extend(&named);
            file.extend(crc(&named).to_be_bytes());
        }
        file
    }
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 })
    })
}

#[test]
fn checksums_are_those_of_the_standard() {
    assert_eq!(crc(b"IEND"), 0xae42_6082);
    assert!(Picture::new(2, 1).png().ends_with(&[0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82]));
}
