/// How to call Core ML packages, whose shapes are static and whose bookkeeping is the caller's.
///
/// A prompt goes through all chunks in calls: `prefill` takes as many positions as this record says, padded at the end,
/// `decode` one. The last position's row, as it leaves the last chunk, goes through all heads, whose logits follow one
/// another.
public struct Host: Record {
  /// Of the weights; every package repeats it in its metadata, under `identity`.
  public let identity: String
  public let minimumIos: String
  public let computeUnits: String
  /// Positions there is room for.
  public let context: Int
  /// Positions of one call; an image is never split over two.
  public let prefill: Int
  public let hidden: Int
  public let vocabulary: Int
  /// Files, in order, each with functions `decode` and `prefill`.
  public let chunks: [String]
  /// Files, in order.
  public let heads: [String]
  public let embedding: Table
  public let embeddingScale: Double
  /// Of the kinds of layers there are, `sliding` and `full`.
  public let attention: [String: Attention]
  /// Added to the scores of slots that must not be seen.
  public let masked: Double
}

/// Rows that the host looks up itself, in files without headers: little-endian, row by row.
///
/// Value j of a row is `(code j - 2^(bits - 1)) * scale[j / group]`. Of 4 bits, the code of an even j is the low half of
/// a byte. With 32 bits the codes are the values, and there are no scales.
public struct Table: Record {
  public let rows: Int
  public let columns: Int
  public let bits: Int
  /// File of `[rows, columns * bits / 8]` bytes.
  public let codes: String
  /// File of fp16 `[rows, columns / group]`.
  public let scales: String?
  public let group: Int

  public init(rows: Int, columns: Int, bits: Int, codes: String, scales: String?, group: Int) {
    self.rows = rows
    self.columns = columns
    self.bits = bits
    self.codes = codes
    self.scales = scales
    self.group = group
  }
}

/// Layers of one kind, as their host sees them: the names of what it hands them, and what is in there.
///
/// Their caches are states, in which position p lies in slot `p % slots`.
public struct Attention: Record {
  public let state: String
  public let slots: Int
  public let headDim: Int
  /// Positions a query sees, itself included; nil: all before it.
  public let window: Int?
  /// Positions of one image see each other.
  public let imageBlocks: Bool
  /// Rotary, half of `headDim`.
  public let inverseFrequencies: [Float]
  /// `[1, 1, T, slots]`, added to scores: 0 where a query sees a slot, else `Host.masked`.
  public let mask: String
  /// `[1, 1, T, headDim]`: of position * inverse frequencies, twice side by side.
  public let cos: String
  public let sin: String
  /// int32 `[1]`: of the first position of a call, which writes slots one after another ...
  public let slot: String
  /// ... unless it has these: `[1, 1, slots, T]`, 1 where a slot takes a position of the call,
  public let write: String?
  /// and `[1, 1, slots, 1]`, 0 at slots that take one.
  public let keep: String?
}
