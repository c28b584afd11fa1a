import Foundation

/// A bundle in another folder, of a drive for example.
public struct FolderTransport: Transport {
  private let folder: URL

  public init(folder: URL) {
    self.folder = folder
  }

  public func fetch(_ path: String, from offset: Int) async throws -> Answer {
    let file = try FileHandle(forReadingFrom: folder.appending(path: path))
    try file.seek(toOffset: UInt64(offset))
    // Read as it is asked for: a bundle is larger than memory.
    let bytes = AsyncThrowingStream<Data, any Error> {
      let data = try file.read(upToCount: 1 << 20) ?? Data()
      return data.isEmpty ? nil : data
    }
    return Answer(offset: offset, bytes: bytes)
  }
}
