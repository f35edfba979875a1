// What every engine module does with its errors: a sentence for the library, and never an exception across the border.
#pragma once

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>

#include "openclip_engines/plugin.h"

namespace oce::plugin {

/// Write a sentence, cut where the buffer ends.
inline void write(oce_message message, std::string_view text) noexcept {
    if (message.text != nullptr && message.size > 0) {
        std::snprintf(message.text, message.size, "%.*s", static_cast<int>(text.size()), text.data());
    }
}

/// An engine that cannot run here: the module's own exception.
class Unavailable : public std::exception {
public:
    explicit Unavailable(std::string reason) : reason_(std::move(reason)) {}
    [[nodiscard]] const char* what() const noexcept override { return reason_.c_str(); }

private:
    std::string reason_;
};

/// The first line of a library's message, because libraries add the place in their own source on further lines.
inline std::string first_line(std::string_view text) {
    return std::string(text.substr(0, text.find('\n')));
}

/// Call a function, and turn whatever it throws into a status and a sentence.
template <typename Function>
oce_status guarded(oce_message message, Function&& function) noexcept {
    try {
        function();
        return OCE_OK;
    } catch (const Unavailable& error) {
        write(message, error.what());
        return OCE_ENGINE_UNAVAILABLE;
    } catch (const std::bad_alloc&) {
        write(message, "no memory is left: use smaller batches, or a machine with more memory");
        return OCE_OUT_OF_MEMORY;
    } catch (const std::exception& error) {
        write(message, error.what());
        return OCE_ENGINE_ERROR;
    } catch (...) {
        write(message, "the engine's library threw an exception of an unknown kind");
        return OCE_ENGINE_ERROR;
    }
}

}  // namespace oce::plugin
