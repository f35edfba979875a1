# ONNX Runtime's headers, of any release from 1.21 on: target OnnxRuntime::headers. OCE_ONNXRUNTIME_ROOT is the folder of an SDK (with
# include/) or of headers. The library itself is opened at run time.
set(OCE_ONNXRUNTIME_ROOT "$ENV{OCE_ONNXRUNTIME_ROOT}" CACHE PATH "Folder of ONNX Runtime's SDK")
find_path(OnnxRuntimeHeaders_INCLUDE_DIR onnxruntime_cxx_api.h
          HINTS ${OCE_ONNXRUNTIME_ROOT} PATH_SUFFIXES include include/onnxruntime onnxruntime include/onnxruntime/core/session)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntimeHeaders REQUIRED_VARS OnnxRuntimeHeaders_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "set OCE_ONNXRUNTIME_ROOT to ONNX Runtime's SDK, or run engines/cpp/tools/build.py, which fetches the headers")
if(OnnxRuntimeHeaders_FOUND AND NOT TARGET OnnxRuntime::headers)
  add_library(OnnxRuntime::headers INTERFACE IMPORTED)
  set_target_properties(OnnxRuntime::headers PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${OnnxRuntimeHeaders_INCLUDE_DIR}"
                        INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${OnnxRuntimeHeaders_INCLUDE_DIR}")
endif()
mark_as_advanced(OnnxRuntimeHeaders_INCLUDE_DIR)
