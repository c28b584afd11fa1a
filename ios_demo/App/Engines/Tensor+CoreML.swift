import CoreML
import DemoCore

extension Tensor {
  init(_ array: MLMultiArray) {
    let shaped = MLShapedArray<Float>(converting: array)  // strides may be padded
    self.init(shaped.shape, shaped.scalars)
  }

  /// `[1, T, width]` -> `[1, 1, width]`
  func row(_ index: Int) -> Tensor {
    Tensor([1, 1, rowLength], Array(rows(index..<index + 1)))
  }
}

extension DemoCore.Port {
  /// The tensor of this port's name in the dtype that it declares.
  ///
  /// - Throws: `UserError` if there is none, or the dtype is unknown.
  func array(of tensors: [String: Tensor]) throws -> MLMultiArray {
    guard let tensor = tensors[name] else {
      throw UserError("the packages want \(name), which this app does not make: update it")
    }
    switch dtype {
    case "float16": return MLMultiArray(MLShapedArray(scalars: tensor.values.map(Float16.init), shape: tensor.shape))
    case "float32": return MLMultiArray(MLShapedArray(scalars: tensor.values, shape: tensor.shape))
    case "int32": return MLMultiArray(MLShapedArray(scalars: tensor.values.map(Int32.init), shape: tensor.shape))
    default: throw UserError("the packages want \(name) as \(dtype): update the app")
    }
  }
}
