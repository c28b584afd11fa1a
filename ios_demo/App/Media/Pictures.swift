import CoreGraphics
import DemoCore
import Foundation
import ImageIO

/// Pictures as the model takes them.
enum Picture {
  /// Of a file's bytes, turned upright where it says how, without transparency. Asynchronous, so that whoever shows
  /// something meanwhile can: a photo takes a while.
  ///
  /// - Throws: `UserError` if there is no picture in there, or one of extreme proportions.
  static func patches(of data: Data, budget: Int) async throws -> ImagePatches {
    let processor = ImageProcessor(budget: budget)
    guard let source = CGImageSourceCreateWithData(data as CFData, nil), let size = size(of: source) else {
      throw unreadable
    }
    let side = try processor.decodedSide(width: size.width, height: size.height)
    let options: [CFString: Any] = [
      kCGImageSourceCreateThumbnailFromImageAlways: true, kCGImageSourceCreateThumbnailWithTransform: true,
      kCGImageSourceThumbnailMaxPixelSize: side,
    ]
    guard let image = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary) else { throw unreadable }
    return try processor(RGBImage(image))
  }

  private static let unreadable = UserError("this is no readable picture: use PNG, JPEG or HEIC")

  /// As its header says, before it is turned.
  private static func size(of source: CGImageSource) -> (width: Int, height: Int)? {
    let properties = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any]
    guard let width = properties?[kCGImagePropertyPixelWidth] as? Int,
      let height = properties?[kCGImagePropertyPixelHeight] as? Int, width > 0, height > 0
    else { return nil }
    return (width, height)
  }
}

extension RGBImage {
  /// - Throws: `UserError` if there is no memory for it.
  init(_ image: CGImage) throws {
    let (width, height) = (image.width, image.height)
    var bytes = [UInt8](repeating: 255, count: width * height * 4)
    let drawn = bytes.withUnsafeMutableBytes { buffer in
      let context = CGContext(
        data: buffer.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: width * 4,
        space: CGColorSpace(name: CGColorSpace.sRGB) ?? CGColorSpaceCreateDeviceRGB(),
        bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
      context?.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
      return context != nil
    }
    guard drawn else { throw UserError("the picture is too large for this device's memory") }
    let pixels = (0..<width * height * 4).lazy.filter { $0 % 4 != 3 }.map { bytes[$0] }
    self.init(width: width, height: height, pixels: Array(pixels))
  }
}
