// Exceptions inside the library; the C API turns each into its status. They mirror engines/errors.py.
#pragma once

#include <stdexcept>
#include <string>

#include "openclip_engines/clip.h"

namespace oce::core {

/// Base of all errors that a user of the library can mend: each message names the problem and its remedy in one sentence.
class EngineError : public std::runtime_error {
public:
    explicit EngineError(const std::string& message) : EngineError(OCE_ENGINE_ERROR, message) {}
    [[nodiscard]] oce_status status() const noexcept { return status_; }

protected:
    EngineError(oce_status status, const std::string& message) : std::runtime_error(message), status_(status) {}

private:
    oce_status status_;
};

/// The folder is not a usable bundle: a file is missing, edited, truncated, or lies outside the folder.
class BundleError : public EngineError {
public:
    explicit BundleError(const std::string& message) : EngineError(OCE_BUNDLE_ERROR, message) {}

protected:
    BundleError(oce_status status, const std::string& message) : EngineError(status, message) {}
};

/// The manifest was written by a newer release than this one.
class SchemaVersionError : public BundleError {
public:
    explicit SchemaVersionError(const std::string& message) : BundleError(OCE_SCHEMA_VERSION_ERROR, message) {}
};

/// The bundle has no engine that can run here (module or library missing, other GPU, other library version).
class EngineUnavailableError : public EngineError {
public:
    explicit EngineUnavailableError(const std::string& message) : EngineError(OCE_ENGINE_UNAVAILABLE, message) {}
};

/// An argument has the wrong size or range (empty batch, token id outside the vocabulary, a format of text that is not supported).
class InputError : public EngineError {
public:
    explicit InputError(const std::string& message) : EngineError(OCE_INPUT_ERROR, message) {}

protected:
    InputError(oce_status status, const std::string& message) : EngineError(status, message) {}
};

/// An image could not be read: not an image, truncated, empty, or larger than the pixel limit.
class ImageError : public InputError {
public:
    explicit ImageError(const std::string& message) : InputError(OCE_IMAGE_ERROR, message) {}
};

}  // namespace oce::core
